//! The command `figa stats`.

mod common;

use std::collections::BTreeSet;
use std::fs;

use common::{Folder, example_records, record};
use figa_loss::{Error, Example, FigaWeights, PairEncoder, PromptTemplate, SpaRecord};
use serde_json::{Value, json};

/// The arguments of `figa stats` with the tokenizer of the folder.
fn arguments<'a>(arguments: &[&'a str]) -> Vec<&'a str> {
    [&["stats"], arguments, &["--tokenizer", "tokenizer.json", "--eos", "</s>", "--prompt", "plain"]].concat()
}

fn counted(folder: &Folder, more: &[&str]) -> Value {
    folder.json(&arguments(&[more, &["--json"]].concat()))
}

/// Three pairs: one with a substitution and an insertion, one without a change, one with a deletion.
fn three_pairs() -> Folder {
    let pairs = [("p q", "a b c", "a d c e"), ("p", "a b", "a b"), ("p p p", "a b c d", "a c d")];
    let folder = Folder::with_records(pairs.map(|(prompt, original, revised)| record(prompt, original, revised)));
    folder.write_tokenizer(["p", "q", "a", "b", "c", "d", "e"]);
    folder
}

#[test]
fn numbers_are_those_counted_by_hand() {
    let folder = three_pairs();
    let counted = counted(&folder, &["pairs.jsonl", "--weights", "paper"]);
    for (name, expected) in [("records", 3), ("pairs", 3), ("rejected", 0), ("blank_lines", 0), ("unchanged", 1)] {
        assert_eq!(counted[name], expected, "{name}");
    }
    let close = |actual: &Value, expected: f64| (actual.as_f64().unwrap() - expected).abs() < 1e-9;
    for (i, name, of, [min, p5, median, p95, max], mean) in [
        (0, "prompt", "rows", [1.0, 1.0, 2.0, 3.0, 3.0], 2.0),
        (1, "original_answer", "pairs", [2.0, 2.0, 3.0, 4.0, 4.0], 3.0),
        (2, "revised_answer", "pairs", [2.0, 2.0, 3.0, 4.0, 4.0], 3.0),
        (3, "row", "rows", [4.0, 4.0, 6.0, 8.0, 8.0], 6.0),
        // 0 of 4, 1 of 7 and 3 of 7 tokens.
        (4, "changed", "pairs", [0.0, 0.0, 14.29, 42.86, 42.86], 400.0 / 7.0 / 3.0),
        // 1 of 8, 2 of 15 and 4 of 13 tokens, EOS of the revised answer among them.
        (5, "active", "pairs", [12.5, 12.5, 13.33, 30.77, 30.77], (12.5 + 200.0 / 15.0 + 400.0 / 13.0) / 3.0),
    ] {
        let it = &counted["distributions"][i];
        assert_eq!((it["name"].as_str(), it["of"].as_str()), (Some(name), Some(of)));
        for (key, expected) in
            [("min", min), ("p5", p5), ("median", median), ("mean", mean), ("p95", p95), ("max", max)]
        {
            assert!(if key == "mean" { close(&it[key], expected) } else { it[key] == expected }, "{name}, {key}: {it}");
        }
    }
    let labels: Vec<_> = counted["labels"]
        .as_array()
        .unwrap()
        .iter()
        .map(|total| json!([total["answer"], total["label"], total["tokens"], total["pairs"]]))
        .collect();
    assert_eq!(
        json!(labels),
        json!([
            ["original", "kept", 7, 3],
            ["original", "substituted", 1, 1],
            ["original", "deleted", 1, 1],
            ["revised", "kept", 7, 3],
            ["revised", "substituted", 1, 1],
            ["revised", "inserted", 1, 1],
        ])
    );
    // Packed: p q a d c e, p a b and p p p a c d; what predicts the changes of the originals is shared.
    assert_eq!(counted["computed"], json!({"separate": 36, "packed": 15, "revised": 18}));
    assert_eq!(counted["truncation"].as_array().unwrap().len(), 7);
}

fn loss(counted: &Value, max_length: usize) -> [u64; 5] {
    let loss = counted["truncation"].as_array().unwrap().iter().find(|loss| loss["max_length"] == max_length).unwrap();
    ["rows_cut", "tokens_lost", "active_tokens_lost", "pairs_without_active_tokens", "prompts_too_long"]
        .map(|name| loss[name].as_u64().unwrap())
}

#[test]
fn quantiles_are_values_that_occur() {
    // Answers of 1 to 99 words, in a mixed order.
    let folder = Folder::with_records((0..99).map(|i| {
        let answer = "a ".repeat(i * 37 % 99 + 1);
        record("p", &answer, &answer)
    }));
    folder.write_tokenizer(["p", "a"]);
    let answer = counted(&folder, &["pairs.jsonl"])["distributions"][1].clone();
    let quantiles = ["min", "p5", "median", "mean", "p95", "max"].map(|name| answer[name].as_f64().unwrap());
    assert_eq!(quantiles, [1.0, 5.0, 50.0, 50.0, 95.0, 99.0]);
}

#[test]
fn truncation_loses_what_is_counted_by_hand() {
    let folder = three_pairs();
    for (max_length, expected) in [
        (0, [0, 36, 7, 0, 3]),
        (3, [4, 24, 7, 2, 1]),
        (4, [4, 12, 4, 1, 0]),
        (8, [0, 0, 0, 0, 0]),
        (128, [0, 0, 0, 0, 0]),
    ] {
        let max_length_text = max_length.to_string();
        let of_paper = ["pairs.jsonl", "--weights", "paper", "--max-length", &max_length_text];
        let counted = counted(&folder, &of_paper);
        assert_eq!(loss(&counted, max_length), expected, "{max_length}");
        // Nothing else depends on it.
        assert_eq!(counted["distributions"][3]["max"], 8.0);
    }
}

fn active(row: &Example) -> u64 {
    (1..row.weights().len()).filter(|&at| row.weights()[at] != 0.0 && row.labels()[at] != -100).count() as u64
}

#[test]
fn truncation_loses_what_the_encoder_cuts() {
    let folder = Folder::new();
    folder.write("pairs.jsonl", fs::read(example_records()).unwrap());
    let records = SpaRecord::read(example_records()).unwrap();
    let words = |record: &SpaRecord| {
        let SpaRecord { instruction, input, original_output, revised_output, .. } = record.clone();
        [&instruction, &input, &*original_output.text(), &*revised_output.text()].join(" ")
    };
    let words: BTreeSet<String> = records
        .iter()
        .map(words)
        .flat_map(|text| text.split_whitespace().map(str::to_owned).collect::<Vec<_>>())
        .collect();
    folder.write_tokenizer(words);

    let mut encoder = PairEncoder::read(folder.path("tokenizer.json"), Some("</s>")).unwrap();
    encoder.template = PromptTemplate::Plain;
    for (max_length, gamma) in [(6, 0.0), (12, 0.0), (25, 0.0), (25, 0.5), (40, 0.0)] {
        encoder.weights = FigaWeights { gamma, ..FigaWeights::paper() };
        let [mut rows_cut, mut tokens, mut active_tokens, mut without, mut too_long] = [0; 5];
        for record in &records {
            encoder.max_length = None;
            let whole = encoder.encode(record).unwrap();
            encoder.max_length = Some(max_length);
            let [before, before_active] = [
                (whole.original.input_ids().len() + whole.revised.input_ids().len()) as u64,
                active(&whole.original) + active(&whole.revised),
            ];
            let (after, after_active) = match encoder.encode(record) {
                Ok(cut) => {
                    let rows = [(&whole.original, &cut.original), (&whole.revised, &cut.revised)];
                    rows_cut += rows.iter().filter(|(whole, cut)| whole != cut).count() as u64;
                    let remaining = active(&cut.original) + active(&cut.revised);
                    without += u64::from(remaining == 0 && before_active > 0);
                    ((cut.original.input_ids().len() + cut.revised.input_ids().len()) as u64, remaining)
                }
                Err(Error::PromptTooLong { .. }) => {
                    too_long += 1;
                    (0, 0)
                }
                Err(error) => panic!("{error}"),
            };
            tokens += before - after;
            active_tokens += before_active - after_active;
        }
        let length = max_length.to_string();
        let gamma = gamma.to_string();
        let of_paper = ["pairs.jsonl", "--max-length", &length, "--weights", "paper", "--gamma", &gamma];
        let counted = counted(&folder, &of_paper);
        assert_eq!(loss(&counted, max_length), [rows_cut, tokens, active_tokens, without, too_long], "{max_length}");
        assert!(tokens > 0, "{max_length} cuts nothing");
    }
}

#[test]
fn the_tables_show_the_same_numbers() {
    let folder = three_pairs();
    let text = folder.stdout(&arguments(&["pairs.jsonl", "--weights", "paper", "--max-length", "4"]));
    for line in [
        "3 records and 0 blank lines read: 3 pairs, 0 rejected",
        "pairs without a change: 1; active: 19.4 % of 36 tokens",
        "changed tokens a pair: 0.7 added, 0.7 removed; EOS is 60.0 % of the reward (alpha 1, beta 0.5, gamma 0, eos 1)",
        "changed, of both answers' tokens [%]   0.0   0.0    14.3  19.0  42.9  42.9",
        "original, deleted       1  11.1 %                1  33.3 %",
        "4 *                  4  66.7 %           12  33.3 %            4  57.1 %             1        0",
    ] {
        let words = |line: &str| line.split_whitespace().collect::<Vec<_>>().join(" ");
        assert!(text.lines().any(|other| words(other) == words(line)), "{line}\n{text}");
    }
}

#[test]
fn weights_that_have_failed_on_such_pairs_are_warned_of() {
    const FAILED: &str = "warning: without a weight for kept tokens (gamma 0), training has failed on pairs like these, with EOS \
                          above 10 % of the reward or fewer than 5 added tokens a pair: take --weights default";
    let pair = |added: usize| record("p", "a", &"b ".repeat(added));
    for (added, weights, failed, outside) in [
        (1, &[][..], false, false),
        (1, &["--weights", "paper"], true, false),
        (5, &["--weights", "paper"], true, false),
        // The same without EOS.
        (5, &["--weights", "paper", "--eos-weight", "0.5"], false, false),
        (4, &["--weights", "paper", "--eos-weight", "0"], true, false),
        (1, &["--gamma", "0"], true, false),
        (1, &["--weights", "paper", "--gamma", "0.1"], false, false),
        (6, &[], false, true),
        (12, &["--weights", "paper"], false, true),
    ] {
        let folder = Folder::with_records([pair(added), pair(added)]);
        folder.write_tokenizer(["p", "a", "b"]);
        let out = ["label", "pairs.jsonl", "--out", "labels.jsonl"];
        let tokenizer = ["--tokenizer", "tokenizer.json", "--eos", "</s>", "--prompt", "plain"];
        for command in [arguments(&["pairs.jsonl"]), [&out[..], &tokenizer].concat()] {
            let output = folder.run(&[&command[..], weights].concat());
            let [text, errors] = [output.stdout, output.stderr].map(|bytes| String::from_utf8(bytes).unwrap());
            assert!(text.contains(&format!("changed tokens a pair: {added}.0 added, 1.0 removed; EOS is ")), "{text}");
            let is_warned = errors.lines().any(|line| line == FAILED);
            assert_eq!(is_warned, failed, "{added} {weights:?}: {errors}");
            let note =
                format!("note: weights have been measured on pairs with 1 to 5 added tokens, and these have {added}.0");
            assert_eq!(errors.contains(&note), outside, "{added} {weights:?}: {errors}");
        }
        let numbers = counted(&folder, &[&["pairs.jsonl"], weights].concat());
        assert_eq!(numbers["added_tokens_per_pair"], added as f64);
    }
}

#[test]
fn bad_records_stop_the_run_or_are_counted() {
    let folder = three_pairs();
    let good = folder.text("pairs.jsonl");
    folder.write("bad.jsonl", format!("{good}\n{{}}\n{good}not json\n"));
    let error = folder.error(&arguments(&["bad.jsonl"]));
    assert!(error.starts_with("bad.jsonl:5:"), "{error}");
    assert!(error.ends_with("fix it, or skip bad records with --skip-bad"), "{error}");

    let counted = counted(&folder, &["bad.jsonl", "--skip-bad"]);
    let counts = ["records", "pairs", "rejected", "blank_lines"].map(|name| counted[name].as_u64().unwrap());
    assert_eq!(counts, [8, 6, 2, 1]);

    folder.write("none.jsonl", "{}\n");
    let error = folder.error(&arguments(&["none.jsonl", "--skip-bad"]));
    assert_eq!(error, "nothing to count: 1 records read, 1 of them bad");
}

#[test]
fn the_figure_is_new_and_complete() {
    let folder = three_pairs();
    folder.stdout(&arguments(&["pairs.jsonl", "--svg", "figure.svg"]));
    let svg = folder.text("figure.svg");
    assert!(svg.starts_with("<svg") && svg.trim_end().ends_with("</svg>"), "{svg}");
    for text in [
        "3 pairs",
        "original answer (median 3 tokens)",
        "changed, of both answers&apos; tokens (median 14.3 %)",
        "tokens",
    ] {
        assert!(svg.contains(text), "{text}\n{svg}");
    }
    let error = folder.error(&arguments(&["pairs.jsonl", "--svg", "figure.svg"]));
    assert_eq!(error, "--svg: figure.svg already exists: name another file, or remove it");
    assert_eq!(folder.text("figure.svg"), svg);
    folder.error(&arguments(&["none.jsonl", "--svg", "new.svg"]));
    assert_eq!(folder.names(), ["figure.svg", "pairs.jsonl", "tokenizer.json"]);
}
