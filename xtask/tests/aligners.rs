//! The table in the module `align` against what the example `aligners` prints.

use std::process::Command;

use xtask::rust::docs;
use xtask::{output, report};

#[test]
fn the_table_of_aligners_is_up_to_date() {
    let flags = ["run", "--quiet", "--no-default-features", "--features", "data", "--example", "aligners"];
    let printed = output(Command::new(env!("CARGO")).args(flags));
    let page = docs("src/align.rs").into_iter().next().expect("the module has a page");
    let (mut compared, mut problems) = (0, vec![]);
    for row in page.rows.iter().filter(|row| row.cells[0] != "aligner") {
        let mut lines = printed.lines().map(|line| line.split_whitespace().collect::<Vec<_>>());
        let Some(words) = lines.find(|words| words.len() > 4 && words[0] == row.cells[0]) else { continue };
        compared += 1;
        // Times differ from run to run, and the data of the numbers in brackets is not here.
        let (dissimilar, moved) = (words[3], words[words.len() - 1]);
        let quoted = row.cells[1].split(' ').next().filter(|quoted| !quoted.is_empty()).unwrap_or("0.00");
        if (quoted, &*row.cells[3].replace(',', "")) != (dissimilar, moved) {
            problems.push(format!("{}: expected {dissimilar} % and {moved} tokens", page.at(row.line)));
        }
    }
    assert_eq!(compared, 5, "{printed}");
    report(&problems);
}
