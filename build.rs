//! Tells our own examples, tests and benches where libtorch is when they run, and hands the same path on to dependents.
//! Prepares the pages of `docs` for rustdoc, which keeps relative links and images as they are.

use std::fs;
use std::path::PathBuf;

/// The pages that are modules of `figa_loss::docs`.
const PAGES: [&str; 9] =
    ["choosing", "design", "figa", "finetune", "losses", "reliability", "results", "scaling", "training"];

fn main() {
    println!("cargo:rerun-if-changed=build.rs");
    // Set by torch-sys on Linux and macOS; absent without the feature `torch` and with `doc-only`.
    if let Ok(lib) = std::env::var("DEP_TCH_LIBTORCH_LIB") {
        println!("cargo:rustc-link-arg=-Wl,-rpath,{lib}");
        // A `rustc-link-arg` ends at this package. A dependent's build script finds the path in
        // DEP_FIGA_LOSS_LIBTORCH_LIB.
        println!("cargo:libtorch_lib={lib}");
    }

    let variable = |name: &str| std::env::var(name).unwrap_or_else(|error| panic!("{name}: {error}"));
    let repository = Some(variable("CARGO_PKG_REPOSITORY")).filter(|repository| !repository.is_empty());
    let blob = repository.map(|repository| format!("{repository}/blob/v{}", variable("CARGO_PKG_VERSION")));
    let out = PathBuf::from(variable("OUT_DIR"));
    for page in PAGES {
        let text = rewrite(&read(&format!("{page}.md")), |target| rustdoc_target(target, blob.as_deref(), read));
        let path = out.join(page).with_extension("md");
        fs::write(&path, text).unwrap_or_else(|error| panic!("{}: {error}", path.display()));
    }
}

/// A file of `docs`.
fn read(path: &str) -> String {
    let path = format!("docs/{path}");
    println!("cargo:rerun-if-changed={path}");
    fs::read_to_string(&path).unwrap_or_else(|error| panic!("{path}: {error}"))
}

/// The target that rustdoc needs in the place of a link's: the module of a page, the content of an image, and for a file that is
/// in the repository alone its address there. `None` if the repository has no address.
pub fn rustdoc_target(target: &str, blob: Option<&str>, read: impl Fn(&str) -> String) -> Option<String> {
    let (path, anchor) = target.split_at(target.find('#').unwrap_or(target.len()));
    if path.is_empty() || path.contains(':') {
        return Some(target.into());
    }
    if let Some(page) = path.strip_suffix(".md").filter(|page| PAGES.contains(page)) {
        return Some(format!("../{page}/index.html{anchor}"));
    }
    if path.ends_with(".svg") {
        return Some(format!("data:image/svg+xml,{}", percent_encoded(&read(path))));
    }
    blob.map(|blob| target.strip_prefix("../").map_or(format!("{blob}/docs/{target}"), |path| format!("{blob}/{path}")))
}

fn percent_encoded(text: &str) -> String {
    let is_plain = |byte: u8| byte.is_ascii_alphanumeric() || b"-._~:/?@!$*+,;=".contains(&byte);
    let encode = |byte| if is_plain(byte) { char::from(byte).to_string() } else { format!("%{byte:02X}") };
    text.bytes().map(encode).collect()
}

/// A page with other targets of links and images. A link without a target becomes its text.
pub fn rewrite(page: &str, target: impl Fn(&str) -> Option<String>) -> String {
    let mut rewritten = String::with_capacity(page.len());
    // Where the brackets begin that are still open.
    let mut brackets = vec![];
    let mut rest = page;
    while let Some(c) = rest.chars().next() {
        let link = rest.strip_prefix("](").and_then(|rest| rest.split_once(')'));
        let verbatim = match c {
            '\\' => rest.chars().take(2).map(char::len_utf8).sum(),
            '`' => code_length(rest),
            '[' => {
                brackets.push(rewritten.len());
                1
            }
            ']' => match (brackets.pop(), link) {
                (Some(bracket), Some((old, after))) => {
                    rest = after;
                    match target(old) {
                        Some(new) => rewritten += &format!("]({new})"),
                        None => drop(rewritten.remove(bracket)),
                    }
                    continue;
                }
                _ => 1,
            },
            _ => c.len_utf8(),
        };
        rewritten += &rest[..verbatim];
        rest = &rest[verbatim..];
    }
    rewritten
}

/// The length of the code in backticks or between fences with which a text begins; of the backticks alone if nothing closes
/// them.
fn code_length(text: &str) -> usize {
    let ticks = text.len() - text.trim_start_matches('`').len();
    let mut at = ticks;
    while let Some(next) = text[at..].find('`') {
        at += next;
        let closing = text[at..].len() - text[at..].trim_start_matches('`').len();
        at += closing;
        if closing == ticks {
            return at;
        }
    }
    ticks
}
