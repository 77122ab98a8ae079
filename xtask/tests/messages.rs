//! Messages of the library name no flag of a command: programs without that flag show them, too.

use xtask::report;
use xtask::rust::strings;
use xtask::workspace::packages;

#[test]
fn messages_of_the_library_name_no_flag() {
    let packages = packages();
    let library = packages.iter().find(|package| package.name == "figa-loss").expect("the library is a member");
    let (mut count, mut problems) = (0, vec![]);
    for path in library.sources() {
        for (line, text) in strings(&path) {
            count += 1;
            // The command of another project, in full.
            let flag = text.split([' ', '(', ',']).find(|word| word.starts_with("--") && !text.contains("hf download"));
            problems.extend(flag.map(|flag| format!("{path}:{line}: {flag} in a message; name the setting")));
        }
    }
    assert!(count > 100, "only {count} strings");
    report(&problems);
}
