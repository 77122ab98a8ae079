//! What pages refer to exists: links, anchors, and paths in backticks; and a reader of the README finds every page.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};

use xtask::markdown::{Link, Markdown};
use xtask::{files, pages, report, root};

/// A file of the crate that a reader of the README makes.
const OF_READERS: &str = "src/main.rs";

/// The folder of a page, relative to the root.
fn folder(page: &Markdown) -> &Path {
    Path::new(&page.path).parent().expect("a page is in a folder")
}

/// The links of a page to files of the repository.
fn own_links(page: &Markdown) -> impl Iterator<Item = &Link> {
    page.links.iter().filter(|link| !link.target.contains(':'))
}

/// The file that a link of a page leads to.
fn target(page: &Markdown, link: &Link) -> Option<PathBuf> {
    let path = link.target.split('#').next().filter(|path| !path.is_empty());
    path.map_or(root().join(&page.path), |path| root().join(folder(page)).join(path)).canonicalize().ok()
}

/// Whether a page is in this file.
fn is_in(page: &Markdown, file: &Path) -> bool {
    root().join(&page.path).canonicalize().is_ok_and(|path| path == file)
}

#[test]
fn links_lead_somewhere() {
    let (pages, mut problems, mut count) = (pages(), vec![], 0);
    for page in &pages {
        for link in own_links(page) {
            count += 1;
            let anchor = link.target.split_once('#').map_or("", |(_, anchor)| anchor);
            let problem = |what: &str| format!("{}: the link {} leads to {what}", page.at(link.line), link.target);
            let Some(target) = target(page, link) else {
                problems.push(problem("no file"));
                continue;
            };
            let anchors = || pages.iter().filter(|page| is_in(page, &target)).flat_map(|page| &page.headings);
            if !anchor.is_empty() && !anchors().any(|heading| heading.anchor == anchor) {
                problems.push(problem("no heading"));
            }
        }
    }
    assert!(count > 10, "only {count} links");
    report(&problems);
}

#[test]
fn every_page_is_reachable_from_the_readme() {
    // A forge finds its forms by their names.
    let pages: Vec<Markdown> = pages().into_iter().filter(|page| !page.path.starts_with(".github/")).collect();
    let (mut reached, mut waiting) = (BTreeSet::new(), vec!["README.md"]);
    while let Some(path) = waiting.pop() {
        if reached.insert(path) {
            let page = pages.iter().find(|page| page.path == path).expect("only pages wait");
            let targets: Vec<PathBuf> = own_links(page).filter_map(|link| target(page, link)).collect();
            let is_target = |page: &&Markdown| targets.iter().any(|target| is_in(page, target));
            waiting.extend(pages.iter().filter(is_target).map(|page| &*page.path));
        }
    }
    let missing = pages.iter().filter(|page| !reached.contains(&*page.path));
    report(&missing.map(|page| format!("{}: no link leads here from README.md", page.path)).collect::<Vec<_>>());
}

#[test]
fn paths_in_backticks_exist() {
    let files = files();
    let folders: BTreeSet<&str> = files.iter().filter_map(|path| Some(path.split_once('/')?.0)).collect();
    let (mut problems, mut count) = (vec![], 0);
    for page in pages() {
        for code in page.code.iter().filter(|code| code.language.is_none()) {
            let is_path = code.text.split_once('/').is_some_and(|(first, _)| folders.contains(first));
            if !is_path || code.text.contains(char::is_whitespace) || code.text == OF_READERS {
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
