//! The command `figa show`.

use std::fs;
use std::io::Write;
use std::path::Path;
use std::process::{Command, Output, Stdio};

use serde_json::{Value, json};

fn show(folder: &Path, arguments: &[&str], input: &str) -> Output {
    let mut command = Command::new(env!("CARGO_BIN_EXE_figa"));
    command.arg("show").args(arguments).current_dir(folder).env_remove("CLICOLOR_FORCE");
    let pipes = command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
    let mut child = pipes.spawn().unwrap();
    child.stdin.take().unwrap().write_all(input.as_bytes()).unwrap();
    child.wait_with_output().unwrap()
}

fn shown(folder: &Path, arguments: &[&str]) -> String {
    let output = show(folder, arguments, "");
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8(output.stdout).unwrap()
}

fn refused(folder: &Path, arguments: &[&str]) -> String {
    let output = show(folder, arguments, "");
    assert!(!output.status.success() && output.stdout.is_empty(), "{arguments:?}");
    String::from_utf8(output.stderr).unwrap()
}

fn record(instruction: &str, original: &str, revised: &str) -> Value {
    json!({"instruction": instruction, "original_output": original, "revised_output": revised})
}

fn lines(records: impl IntoIterator<Item = Value>) -> String {
    records.into_iter().map(|record| format!("{record}\n")).collect()
}

#[test]
fn two_texts_become_a_diff_and_a_table() {
    let folder = tempfile::tempdir().unwrap();
    let expected = "\
He [-go-] {+goes+} home {+now+}.<eos>

original             revised              token
kept             +0  kept             +0  He
substituted    -0.5                       go
                     substituted      +1  goes
kept             +0  kept             +0  home
                     inserted         +1  now
kept             +0  kept             +0  .
eos              +0  eos              +1  <eos>
";
    assert_eq!(shown(folder.path(), &["He go home.", "He goes home now."]), expected);

    let weighed = shown(folder.path(), &["a", "b", "--alpha", "2", "--beta", "0.25", "--gamma", "0.125"]);
    assert!(weighed.contains("substituted   -0.25 ") && weighed.contains("substituted      +2 "), "{weighed}");
    assert!(shown(folder.path(), &["", "new"]).starts_with("{+new+}<eos>\n"));
}

#[test]
fn changes_widen_to_phrases_and_words() {
    let folder = tempfile::tempdir().unwrap();
    let diff = |arguments: &[&str]| shown(folder.path(), arguments).lines().next().unwrap().to_owned();
    let texts = ["old one two old", "new one two new"];
    assert_eq!(
        diff(&[&texts[..], &["--granularity", "phrase:1"]].concat()),
        "[-old-]{+new+} one two [-old-] {+new+}<eos>"
    );
    assert_eq!(
        diff(&[&texts[..], &["--granularity", "phrase:2"]].concat()),
        "[-old one two old-]{+new one two new+}<eos>"
    );

    // One token a letter, but words as they are.
    let vocab: serde_json::Map<String, Value> =
        ('a'..='z').zip(0..).map(|(c, id)| (c.to_string(), json!(id))).collect();
    let tokenizer = json!({
        "model": {"type": "BPE", "vocab": vocab, "merges": []},
        "pre_tokenizer": {"type": "Whitespace"},
        "truncation": {"direction": "Right", "max_length": 2, "strategy": "LongestFirst", "stride": 0},
    });
    fs::write(folder.path().join("tokenizer.json"), tokenizer.to_string()).unwrap();
    for path in [".", "tokenizer.json"] {
        let texts = ["the cat sat", "the car sat", "--tokenizer", path];
        assert_eq!(diff(&texts), "the ca[-t-]{+r+} sat<eos>");
        assert_eq!(diff(&[&texts[..], &["--granularity", "word"]].concat()), "the [-cat-] {+car+} sat<eos>");
    }
    assert!(refused(folder.path(), &["a", "b", "--tokenizer", "none.json"]).contains("--tokenizer: none.json"));
}

#[test]
fn a_record_comes_with_what_it_asks() {
    let folder = tempfile::tempdir().unwrap();
    let chat = |answer: &str| json!([{"role": "user", "content": "Why?"}, {"role": "assistant", "content": answer}]);
    let preference = json!({"rejected": chat("so"), "chosen": chat("thus")});
    fs::write(folder.path().join("a.jsonl"), lines([record("ask", "a", "b"), record("ask again", "c", "d")])).unwrap();
    fs::write(folder.path().join("b.jsonl"), lines([preference])).unwrap();

    assert!(shown(folder.path(), &["a.jsonl"]).starts_with("instruction: ask\n\n[-a-]{+b+}<eos>\n"));
    let second = shown(folder.path(), &["a.jsonl", "b.jsonl", "--record", "2"]);
    assert!(second.starts_with("instruction: ask again\n\n[-c-]{+d+}<eos>\n"), "{second}");
    let names = ["--original", "rejected", "--revised", "chosen"];
    assert!(
        shown(folder.path(), &[&["b.jsonl"], &names[..]].concat()).starts_with("user: Why?\n\n[-so-]{+thus+}<eos>\n")
    );

    let error = "error: --record 3: expected one of the 2 records that were read\n";
    assert_eq!(refused(folder.path(), &["a.jsonl", "--record", "3"]), error);
    assert!(refused(folder.path(), &["a.jsonl", "b.jsonl"]).contains("a.jsonl and b.jsonl are files"));
    assert!(refused(folder.path(), &["b.jsonl"]).contains("b.jsonl:1:"));
    assert!(refused(folder.path(), &["a.jsonl", "--record", "0"]).contains("--record"));
}

#[test]
fn a_terminal_gets_no_orders_from_a_text() {
    let folder = tempfile::tempdir().unwrap();
    let text = shown(folder.path(), &["a\u{1b}[2J", "b\u{7}\r\n"]);
    assert!(!text.contains(['\u{1b}', '\u{7}', '\r']) && text.contains("\u{fffd}"), "{text:?}");
}

/// The numbers of the records on a page.
fn numbers(page: &str) -> Vec<u64> {
    page.split("<article id=\"record-").skip(1).map(|rest| rest.split('"').next().unwrap().parse().unwrap()).collect()
}

#[test]
fn a_sample_is_even_whatever_the_count() {
    let folder = tempfile::tempdir().unwrap();
    for (count, sample) in [(1, 20), (7, 20), (20, 20), (41, 4), (1000, 10), (1601, 10), (5000, 1)] {
        let text = lines((1..=count).map(|number| record(&format!("ask {number}"), "a", "b")));
        let page = folder.path().join(format!("{count}.html"));
        let output =
            show(folder.path(), &["-", "--html", page.to_str().unwrap(), "--sample", &sample.to_string()], &text);
        let summary = format!("{}: {} of {count} records\n", page.display(), count.min(sample));
        assert_eq!(String::from_utf8_lossy(&output.stdout), summary);
        let page = fs::read_to_string(page).unwrap();
        let numbers = numbers(&page);
        assert_eq!(numbers.len() as u64, count.min(sample));
        for (i, &number) in (0..).zip(&numbers) {
            let even = i * count / count.min(sample) + 1;
            let slack = if count < 16 * sample { 0 } else { count / sample / 8 };
            assert!(number <= even && number + slack >= even, "{count}, {sample}: {numbers:?}");
            assert!(page.contains(&format!(">ask {number}<")), "{number} is the number of another record");
        }
    }
}

#[test]
fn a_page_escapes_what_it_shows() {
    let folder = tempfile::tempdir().unwrap();
    let evil = "<script>alert(\"&\")</script>\u{1}";
    let long = "word ".repeat(30);
    let records = [record(evil, &format!("{long}{evil}"), &format!("{long}fine\n"))];
    fs::write(folder.path().join("<b>.jsonl"), lines(records)).unwrap();
    shown(folder.path(), &["<b>.jsonl", "--html", "page.html"]);
    let page = fs::read_to_string(folder.path().join("page.html")).unwrap();
    assert!(!page.contains("<script") && !page.contains("<b>.jsonl") && !page.contains('\u{1}'), "{page}");
    assert!(page.contains("&lt;script&gt;alert(&quot;&amp;&quot;)&lt;/script&gt;\u{fffd}"), "{page}");
    assert!(page.contains("<ins title=\"fine: substituted, weight +1\">fine</ins>"), "{page}");
    assert!(page.contains("<summary>24 kept</summary>"), "{page}");
    assert_eq!(page.matches("<details>").count(), page.matches("</details>").count());

    let error = refused(folder.path(), &["<b>.jsonl", "--html", "page.html"]);
    assert_eq!(error, "error: --html: page.html is there already: name another file, or remove it\n");
    fs::write(folder.path().join("none.jsonl"), "\n").unwrap();
    assert!(refused(folder.path(), &["none.jsonl", "--html", "new.html"]).contains("none.jsonl: no records"));
    fs::write(folder.path().join("bad.jsonl"), "{}\n").unwrap();
    assert!(refused(folder.path(), &["bad.jsonl", "--html", "new.html"]).contains("bad.jsonl:1:"));
    assert!(refused(folder.path(), &["<b>.jsonl", "--html", "none/new.html"]).contains("none/new.html"));
    assert!(!folder.path().join("new.html").exists());
    assert_eq!(fs::read_dir(folder.path()).unwrap().count(), 4);
}

#[test]
fn whoever_reads_may_stop() {
    let folder = tempfile::tempdir().unwrap();
    let long = "word ".repeat(50_000);
    let mut command = Command::new(env!("CARGO_BIN_EXE_figa"));
    fs::write(folder.path().join("a.jsonl"), lines([record("ask", &long, "b")])).unwrap();
    let command = command.args(["show", "a.jsonl"]).current_dir(&folder).stdout(Stdio::piped()).stderr(Stdio::piped());
    let mut child = command.spawn().unwrap();
    drop(child.stdout.take());
    let output = child.wait_with_output().unwrap();
    assert!(output.status.success() && output.stderr.is_empty(), "{}", String::from_utf8_lossy(&output.stderr));
}
