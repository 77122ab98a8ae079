//! The picture of `figa show` in the README. After an intended change, `INSTA_UPDATE=always cargo test -p figa-cli --test
//! picture` draws it anew.
#![cfg(unix)]

mod common;

use std::fs;
use std::path::Path;

use anstyle_svg::{Term, VGA};
use common::Folder;

/// In the repository alone: the package does not hold it.
const PICTURE: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/../docs/figures/show.svg");
const TEXTS: [&str; 2] = ["He go home.", "He goes home now."];

#[test]
fn the_picture_shows_what_the_command_prints() {
    if !Path::new(PICTURE).parent().is_some_and(Path::is_dir) {
        return;
    }
    let output = Folder::new().figa(&["show", TEXTS[0], TEXTS[1]]).env("CLICOLOR_FORCE", "1").output().unwrap();
    let printed = String::from_utf8(output.stdout).unwrap();
    // The bright colours in the place of the dark ones, which are hard to read on black.
    let mut palette = VGA;
    palette.0.copy_within(9..16, 1);
    let picture = Term::new().palette(palette).render_svg(&format!(
        "$ figa show '{}' '{}'\n{}",
        TEXTS[0],
        TEXTS[1],
        printed.trim_end()
    ));
    if std::env::var("INSTA_UPDATE").is_ok_and(|update| update == "always") {
        fs::write(PICTURE, &picture).unwrap();
    }
    assert_eq!(fs::read_to_string(PICTURE).unwrap(), picture);
}
