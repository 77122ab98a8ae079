//! The command `figa show`.

mod common;

use std::io::Write;
use std::process::{Output, Stdio};

use common::{Folder, lines, record};
use serde_json::{Map, Value, json};

fn shown(folder: &Folder, arguments: &[&str]) -> String {
    folder.stdout(&[&["show"], arguments].concat())
}

fn refused(folder: &Folder, arguments: &[&str]) -> String {
    folder.error(&[&["show"], arguments].concat())
}

/// The output of `figa show` for this standard input.
fn shown_input(folder: &Folder, arguments: &[&str], input: &str) -> Output {
    let mut command = folder.figa(&[&["show"], arguments].concat());
    let mut child = command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
    child.stdin.take().unwrap().write_all(input.as_bytes()).unwrap();
    child.wait_with_output().unwrap()
}

#[test]
fn two_texts_become_a_diff_and_a_table() {
    let folder = Folder::new();
    let expected = "\
He [-go-] {+goes+} home {+now+}.<eos>

original             revised              token
kept             +0  kept           +0.3  He
substituted    -0.5                       go
                     substituted      +1  goes
kept             +0  kept           +0.3  home
                     inserted         +1  now
kept             +0  kept           +0.3  .
eos              +0  eos            +0.3  <eos>
";
    assert_eq!(shown(&folder, &["He go home.", "He goes home now."]), expected);

    let weighed = shown(&folder, &["a", "b", "--alpha", "2", "--beta", "0.25", "--gamma", "0.125"]);
    assert!(weighed.contains("substituted   -0.25 ") && weighed.contains("substituted      +2 "), "{weighed}");
    let weighed = shown(&folder, &["a", "b", "--eos-weight", "0.25"]);
    assert!(weighed.contains("eos              +0  eos           +0.25  <eos>"), "{weighed}");
    assert!(shown(&folder, &["", "new"]).starts_with("{+new+}<eos>\n"));
}

#[test]
fn changes_widen_to_phrases_and_words() {
    let folder = Folder::new();
    let diff = |arguments: &[&str]| shown(&folder, arguments).lines().next().unwrap().to_owned();
    let texts = ["old one two old", "new one two new"];
    assert_eq!(
        diff(&[&texts[..], &["--granularity", "phrase:1"]].concat()),
        "[-old-]{+new+} one two [-old-] {+new+}<eos>"
    );
    assert_eq!(
        diff(&[&texts[..], &["--granularity", "phrase:2"]].concat()),
        "[-old one two old-]{+new one two new+}<eos>"
    );

    // One token per letter, and several of them per word.
    let vocab: Map<String, Value> = ('a'..='z').zip(0..).map(|(c, id)| (c.to_string(), json!(id))).collect();
    let tokenizer = json!({
        "model": {"type": "BPE", "vocab": vocab, "merges": []},
        "pre_tokenizer": {"type": "Whitespace"},
        "truncation": {"direction": "Right", "max_length": 2, "strategy": "LongestFirst", "stride": 0},
    });
    folder.write("tokenizer.json", tokenizer.to_string());
    for path in [".", "tokenizer.json"] {
        let texts = ["the cat sat", "the car sat", "--tokenizer", path];
        assert_eq!(diff(&texts), "the ca[-t-]{+r+} sat<eos>");
        assert_eq!(diff(&[&texts[..], &["--granularity", "word"]].concat()), "the [-cat-] {+car+} sat<eos>");
    }
    assert!(refused(&folder, &["a", "b", "--tokenizer", "none.json"]).contains("--tokenizer: none.json"));
}

#[test]
fn a_record_is_shown_with_its_prompt() {
    let folder = Folder::new();
    let chat = |answer: &str| json!([{"role": "user", "content": "Why?"}, {"role": "assistant", "content": answer}]);
    let preference = json!({"rejected": chat("so"), "chosen": chat("thus")});
    folder.write("a.jsonl", lines([record("ask", "a", "b"), record("ask again", "c", "d")]));
    folder.write("b.jsonl", lines([preference]));

    assert!(shown(&folder, &["a.jsonl"]).starts_with("instruction: ask\n\n[-a-]{+b+}<eos>\n"));
    let second = shown(&folder, &["a.jsonl", "b.jsonl", "--record", "2"]);
    assert!(second.starts_with("instruction: ask again\n\n[-c-]{+d+}<eos>\n"), "{second}");
    let names = ["--original", "rejected", "--revised", "chosen"];
    assert!(shown(&folder, &[&["b.jsonl"], &names[..]].concat()).starts_with("user: Why?\n\n[-so-]{+thus+}<eos>\n"));

    let error = "--record 3: expected at most 2, the number of records";
    assert_eq!(refused(&folder, &["a.jsonl", "--record", "3"]), error);
    assert!(refused(&folder, &["a.jsonl", "b.jsonl"]).contains("a.jsonl and b.jsonl are files"));
    assert!(refused(&folder, &["b.jsonl"]).contains("b.jsonl:1:"));
    assert!(folder.usage_error(&["show", "a.jsonl", "--record", "0"]).contains("--record"));
}

#[test]
fn a_text_cannot_control_the_terminal() {
    let folder = Folder::new();
    let text = shown(&folder, &["a\u{1b}[2J", "b\u{7}\r\n"]);
    assert!(!text.contains(['\u{1b}', '\u{7}', '\r']) && text.contains("\\u{1b}[2J"), "{text:?}");
}

/// The numbers of the records on a page.
fn numbers(page: &str) -> Vec<u64> {
    page.split("<article id=\"record-").skip(1).map(|rest| rest.split('"').next().unwrap().parse().unwrap()).collect()
}

#[test]
fn a_sample_is_even_for_any_number_of_records() {
    let folder = Folder::new();
    for (count, sample) in [(1, 20), (7, 20), (20, 20), (41, 4), (1000, 10), (1601, 10), (5000, 1)] {
        let text = lines((1..=count).map(|number| record(&format!("ask {number}"), "a", "b")));
        let name = format!("{count}.html");
        let output = shown_input(&folder, &["-", "--html", &name, "--sample", &sample.to_string()], &text);
        let summary = format!("{name}: {} of {count} records\n", count.min(sample));
        assert_eq!(String::from_utf8_lossy(&output.stdout), summary);
        let page = folder.text(&name);
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
    let folder = Folder::new();
    let evil = "<script>alert(\"&\")</script>\u{1}";
    let long = "word ".repeat(30);
    let records = [record(evil, &format!("{long}{evil}"), &format!("{long}fine\n"))];
    folder.write("<b>.jsonl", lines(records));
    shown(&folder, &["<b>.jsonl", "--html", "page.html"]);
    let page = folder.text("page.html");
    assert!(!page.contains("<script") && !page.contains("<b>.jsonl") && !page.contains('\u{1}'), "{page}");
    assert!(page.contains("&lt;script&gt;alert(&quot;&amp;&quot;)&lt;/script&gt;\\u{1}"), "{page}");
    assert!(page.contains("<ins title=\"fine: substituted, weight +1\">fine</ins>"), "{page}");
    assert!(page.contains("<summary>24 kept</summary>"), "{page}");
    assert_eq!(page.matches("<details>").count(), page.matches("</details>").count());

    let error = refused(&folder, &["<b>.jsonl", "--html", "page.html"]);
    assert_eq!(error, "--html: page.html already exists: name another file, or remove it");
    folder.write("none.jsonl", "\n");
    assert!(refused(&folder, &["none.jsonl", "--html", "new.html"]).contains("none.jsonl: no records"));
    folder.write("bad.jsonl", "{}\n");
    assert!(refused(&folder, &["bad.jsonl", "--html", "new.html"]).contains("bad.jsonl:1:"));
    assert!(refused(&folder, &["<b>.jsonl", "--html", "none/new.html"]).contains("none/new.html"));
    assert_eq!(folder.names(), ["<b>.jsonl", "bad.jsonl", "none.jsonl", "page.html"]);
}

#[test]
fn a_reader_may_stop_early() {
    let folder = Folder::new();
    let long = "word ".repeat(50_000);
    folder.write("a.jsonl", lines([record("ask", &long, "b")]));
    let mut command = folder.figa(&["show", "a.jsonl"]);
    let mut child = command.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
    drop(child.stdout.take());
    let output = child.wait_with_output().unwrap();
    assert!(output.status.success() && output.stderr.is_empty(), "{}", String::from_utf8_lossy(&output.stderr));
}
