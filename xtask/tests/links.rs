//! What pages refer to exists: links, anchors, and paths in backticks.

use std::collections::BTreeSet;
use std::path::Path;

use xtask::markdown::Markdown;
use xtask::{files, pages, report, root};

/// The folder of a page, relative to the root.
fn folder(page: &Markdown) -> &Path {
    Path::new(&page.path).parent().expect("a page is in a folder")
}

#[test]
fn links_lead_somewhere() {
    let (pages, mut problems, mut count) = (pages(), vec![], 0);
    for page in &pages {
        for link in page.links.iter().filter(|link| !link.target.contains(':')) {
            count += 1;
            let (path, anchor) = link.target.split_once('#').unwrap_or((&link.target, ""));
            let problem = |what: &str| format!("{}: the link {} leads to {what}", page.at(link.line), link.target);
            let target = if path.is_empty() { root().join(&page.path) } else { root().join(folder(page)).join(path) };
            let Ok(target) = target.canonicalize() else {
                problems.push(problem("no file"));
                continue;
            };
            let of_target = |page: &&Markdown| root().join(&page.path).canonicalize().is_ok_and(|path| path == target);
            let anchors = || pages.iter().filter(of_target).flat_map(|page| &page.headings);
            if !anchor.is_empty() && !anchors().any(|heading| heading.anchor == anchor) {
                problems.push(problem("no heading"));
            }
        }
    }
    assert!(count > 10, "only {count} links");
    report(&problems);
}

#[test]
fn paths_in_backticks_exist() {
    let files = files();
    let folders: BTreeSet<&str> = files.iter().filter_map(|path| Some(path.split_once('/')?.0)).collect();
    let (mut problems, mut count) = (vec![], 0);
    for page in pages() {
        for code in page.code.iter().filter(|code| code.language.is_none()) {
            let is_path = code.text.split_once('/').is_some_and(|(first, _)| folders.contains(first));
            if !is_path || code.text.contains(char::is_whitespace) {
                continue;
            }
            count += 1;
            // A pattern stands for the folder that it is in.
            let path = code.text.split('*').next().unwrap_or_default();
            let path = if path == code.text { path } else { path.rsplit_once('/').map_or("", |(folder, _)| folder) };
            if ![root().to_path_buf(), root().join(folder(&page))].iter().any(|base| base.join(path).exists()) {
                problems.push(format!("{}: there is no {}", page.at(code.line), code.text));
            }
        }
    }
    assert!(count > 3, "only {count} paths");
    report(&problems);
}
