//! From records to tensors: encoding, labels, files and batches.
#![cfg(feature = "data")]

use std::collections::HashSet;
use std::fs;
use std::path::Path;

use figa_loss::TokenLabel::{self, Deleted, Eos, Ignored, Inserted, Kept, Substituted};
use figa_loss::tokenizers::models::bpe::{BPE, Vocab};
use figa_loss::tokenizers::normalizers::Strip;
use figa_loss::tokenizers::pre_tokenizers::{byte_level::ByteLevel, whitespace::Whitespace};
use figa_loss::tokenizers::processors::template::TemplateProcessing;
use figa_loss::tokenizers::{AddedToken, PaddingParams, Tokenizer, TruncationParams};
use figa_loss::{
    Aligner, EncodedPair, Error, Example, Granularity, Message, PairEncoder, PromptTemplate, SpaRecord, collate,
};

fn record(original: &str, revised: &str) -> SpaRecord {
    SpaRecord::new("ask", original, revised)
}

/// One token per character, except that a space and the next letter merge, as in GPT-2. `<s>` is 0, `</s>` is 1.
fn tokenizer() -> Tokenizer {
    let letters = || ('a'..='z').chain(['é', '日']);
    let single = letters().chain(" \n:#.,ABCDEFGHIJKLMNOPQRSTUVWXYZ".chars()).map(String::from);
    let merged = letters().map(|letter| format!(" {letter}"));
    let vocab = single.chain(merged).enumerate().map(|(id, token)| (token, id as u32 + 2));
    let vocab = vocab.chain([("<s>".into(), 0), ("</s>".into(), 1)]).collect::<Vocab>();
    let merges = letters().map(|letter| (" ".to_string(), letter.to_string())).collect();
    let model = BPE::builder().vocab_and_merges(vocab, merges).build().unwrap();
    let mut tokenizer = Tokenizer::new(model);
    tokenizer.add_special_tokens([AddedToken::from("<s>", true), AddedToken::from("</s>", true)]).unwrap();
    tokenizer
}

fn encoder(template: PromptTemplate) -> PairEncoder {
    let mut encoder = PairEncoder::new(tokenizer(), "</s>").unwrap();
    encoder.template = template;
    encoder
}

fn answer<'a>(encoder: &PairEncoder, example: &'a Example) -> Vec<(String, &'a TokenLabel)> {
    let token = |id: &u32| encoder.tokenizer().id_to_token(*id).unwrap();
    let tokens = example.input_ids().iter().map(token).zip(example.token_labels());
    tokens.filter(|(_, label)| **label != Ignored).collect()
}

/// Checks what is true of every row.
fn check(pair: &EncodedPair, eos: u32) {
    for example in [&pair.original, &pair.revised] {
        let n = example.input_ids().len();
        assert_eq!((n, n, n), (example.labels().len(), example.weights().len(), example.token_labels().len()));
        for i in 0..n {
            let ignored = example.token_labels()[i] == Ignored;
            assert_eq!(example.labels()[i], if ignored { -100 } else { i64::from(example.input_ids()[i]) });
            assert!(!ignored || example.weights()[i] == 0.0);
        }
        assert_eq!(example.input_ids().iter().filter(|&&id| id == eos).count(), 1);
        assert_eq!(*example.input_ids().last().unwrap(), eos);
    }
}

#[test]
fn labels_and_weights_reach_the_rows() {
    let encoder = encoder(PromptTemplate::Plain);
    let pair = encoder.encode(&record("abcd", "axcde")).unwrap();
    check(&pair, encoder.eos_id());
    let labels =
        |example: &Example| example.token_labels().iter().copied().filter(|l| *l != Ignored).collect::<Vec<_>>();
    assert_eq!(labels(&pair.original), [Kept, Substituted, Kept, Kept, Eos]);
    assert_eq!(labels(&pair.revised), [Kept, Substituted, Kept, Kept, Inserted, Eos]);
    assert_eq!(pair.original.weights()[4..], [0.0, -0.5, 0.0, 0.0, 0.0]);
    assert_eq!(pair.revised.weights()[4..], [0.3, 1.0, 0.3, 0.3, 1.0, 0.3]);
    assert_eq!(pair.revised.labels()[..4], [-100; 4]); // a, s, k, newline
}

#[test]
fn the_boundary_is_that_of_the_joint_encoding() {
    // " a" is one token that begins in the prompt. Encoded alone, the prompt would end in a token " " that the row does
    // not have.
    let encoder = encoder(PromptTemplate::Alpaca);
    let record = record("ab", "ac");
    let pair = encoder.encode(&record).unwrap();
    check(&pair, encoder.eos_id());
    let alone = encoder.tokenizer().encode(PromptTemplate::Alpaca.render(&record).unwrap(), true).unwrap().len();
    let prompt = pair.original.token_labels().iter().filter(|&&label| label == Ignored).count();
    assert_eq!(prompt, alone - 1);
    let tokens: Vec<_> = answer(&encoder, &pair.original).into_iter().map(|(token, _)| token).collect();
    assert_eq!(tokens, [" a", "b", "</s>"]);
}

#[test]
fn multi_byte_text_keeps_the_boundary() {
    let encoder = encoder(PromptTemplate::Plain);
    let mut record = record("日é", "é日");
    record.instruction = "é日".into();
    let pair = encoder.encode(&record).unwrap();
    check(&pair, encoder.eos_id());
    assert_eq!(pair.original.token_labels().iter().filter(|&&label| label == Ignored).count(), 3);
}

#[test]
fn special_tokens_of_the_tokenizer_are_not_part_of_the_answer() {
    let mut tokenizer = tokenizer();
    tokenizer.with_post_processor(Some(bos_and_eos()));
    let mut encoder = PairEncoder::new(tokenizer, "</s>").unwrap();
    encoder.template = PromptTemplate::Plain;
    let pair = encoder.encode(&record("ab", "b")).unwrap();
    check(&pair, 1);
    assert_eq!(pair.original.input_ids()[0], 0);
    assert_eq!(pair.original.token_labels(), [Ignored, Ignored, Ignored, Ignored, Ignored, Deleted, Kept, Eos]);
}

#[test]
fn the_prompt_is_never_aligned_with_the_answer() {
    // " a" includes the last space of the prompt. Before "X" that space is a token of its own and belongs to the
    // prompt. If whole rows were aligned, it would replace " a".
    let encoder = encoder(PromptTemplate::Alpaca);
    let pair = encoder.encode(&record("aXb", "Xb")).unwrap();
    let labels =
        |example: &Example| example.token_labels().iter().copied().filter(|l| *l != Ignored).collect::<Vec<_>>();
    assert_eq!(labels(&pair.original), [Deleted, Kept, Kept, Eos]);
    assert_eq!(labels(&pair.revised), [Kept, Kept, Eos]);
}

#[test]
fn whitespace_of_the_answer_belongs_to_it_even_if_the_tokenizer_trims_offsets() {
    let mut tokenizer = tokenizer();
    tokenizer.with_post_processor(Some(ByteLevel::default().trim_offsets(true)));
    let mut encoder = PairEncoder::new(tokenizer, "</s>").unwrap();
    encoder.template = PromptTemplate::Plain;
    let pair = encoder.encode(&record("  ", " ")).unwrap();
    assert_eq!(pair.original.token_labels(), [Ignored, Ignored, Ignored, Ignored, Kept, Deleted, Eos]);
    assert_eq!(pair.revised.token_labels(), [Ignored, Ignored, Ignored, Ignored, Kept, Eos]);
}

#[test]
fn eos_in_the_text_is_not_repeated() {
    let encoder = encoder(PromptTemplate::Plain);
    let pair = encoder.encode(&record("ab</s>", "ab")).unwrap();
    assert_eq!(pair.original.input_ids(), pair.revised.input_ids());
    check(&pair, encoder.eos_id());
}

#[test]
fn a_verbatim_prompt_is_not_changed() {
    let mut tokenizer = tokenizer();
    tokenizer.with_post_processor(Some(bos_and_eos()));
    let mut encoder = PairEncoder::new(tokenizer, "</s>").unwrap();
    encoder.template = PromptTemplate::Verbatim;
    let mut record = SpaRecord::new("xy", "ab", "b");
    record.input = "z".into();
    let without_bos = encoder.encode(&record).unwrap();
    assert_eq!(without_bos.revised.token_labels(), [Ignored, Ignored, Ignored, Ignored, Kept, Eos]);
    record.instruction = "<s>xy".into();
    assert_eq!(encoder.encode(&record).unwrap(), without_bos);
    // In the answer, BOS is an ordinary token.
    (record.instruction, record.input) = ("".into(), "".into());
    record.revised_output = Message::new("assistant", "<s>b");
    assert_eq!(encoder.encode(&record).unwrap().revised.token_labels(), [Ignored, Substituted, Kept, Eos]);
}

#[test]
fn a_prompt_without_tokens_needs_a_bos() {
    let strip = |tokenizer: &mut Tokenizer| {
        tokenizer.with_normalizer(Some(Strip::new(true, true))).unwrap();
    };
    let mut record = record("ab", "b");
    record.instruction = String::new();
    let mut bare = encoder(PromptTemplate::Plain).tokenizer().clone();
    strip(&mut bare);
    let encode = |tokenizer| {
        let mut encoder = PairEncoder::new(tokenizer, "</s>").unwrap();
        encoder.template = PromptTemplate::Plain;
        encoder.encode(&record)
    };
    assert!(matches!(encode(bare), Err(Error::EmptyPrompt { .. })));
    let mut with_bos = tokenizer();
    strip(&mut with_bos);
    with_bos.with_post_processor(Some(bos_and_eos()));
    assert_eq!(encode(with_bos).unwrap().original.token_labels(), [Ignored, Deleted, Kept, Eos]);
}

fn bos_and_eos() -> TemplateProcessing {
    let mut template = TemplateProcessing::builder();
    template.try_single("<s> $A </s>").unwrap().special_tokens(vec![("<s>", 0), ("</s>", 1)]).build().unwrap()
}

#[test]
fn alignment_precedes_truncation() {
    // Three early insertions shift the tail. Aligned after truncation, the original's last three tokens would look
    // deleted.
    let mut encoder = encoder(PromptTemplate::Plain);
    let record = record("abcdefgh", "xyzabcdefgh");
    encoder.max_length = Some(4 + 8);
    let pair = encoder.encode(&record).unwrap();
    assert_eq!((pair.original.input_ids().len(), pair.revised.input_ids().len()), (12, 12));
    assert_eq!(pair.original.token_labels()[4..], [Kept; 8]);
    assert_eq!(pair.revised.token_labels()[4..], [Inserted, Inserted, Inserted, Kept, Kept, Kept, Kept, Kept]);
    assert!(pair.original.weights().iter().all(|&weight| weight == 0.0));

    encoder.max_length = Some(4);
    let error = encoder.encode(&record).unwrap_err();
    assert!(matches!(error, Error::PromptTooLong { prompt_tokens: 4, max_length: 4, .. }), "{error}");
}

#[test]
fn answers_may_be_empty_or_equal() {
    let encoder = encoder(PromptTemplate::Plain);
    for (original, revised) in [("", ""), ("", "a"), ("a", ""), ("a", "a")] {
        let pair = encoder.encode(&record(original, revised)).unwrap();
        check(&pair, encoder.eos_id());
        assert_eq!(pair.original.weights().iter().any(|&w| w != 0.0), !original.is_empty() && revised.is_empty());
        assert_eq!(*pair.revised.weights().last().unwrap(), 0.3);
    }
}

#[test]
fn settings_of_the_encoder_are_respected() {
    let mut encoder = encoder(PromptTemplate::Plain);
    encoder.weights.gamma = 0.25;
    encoder.weights.eos = 0.5;
    encoder.aligner = Aligner::Myers;
    let pair = encoder.encode(&record("abc", "abd")).unwrap();
    assert_eq!(pair.revised.weights()[4..], [0.25, 0.25, 1.0, 0.5]);
    encoder.weights.beta = f32::NAN;
    assert!(matches!(encoder.encode(&record("a", "b")), Err(Error::Value { argument: "weights.beta", .. })));
}

#[test]
fn granularity_widens_the_labels() {
    let mut tokenizer = tokenizer();
    tokenizer.with_pre_tokenizer(Some(Whitespace));
    let labels = |granularity| {
        let mut encoder = PairEncoder::new(tokenizer.clone(), "</s>").unwrap();
        encoder.template = PromptTemplate::Plain;
        encoder.granularity = granularity;
        let revised = encoder.encode(&record("abc d efg", "abc d eXg")).unwrap().revised;
        revised.token_labels().iter().copied().filter(|label| *label != Ignored).collect::<Vec<_>>()
    };
    use Granularity::{Phrase, Token, Word};
    assert_eq!(labels(Token), [Kept, Kept, Kept, Kept, Kept, Substituted, Kept, Eos]);
    assert_eq!(labels(Word), [Kept, Kept, Kept, Kept, Substituted, Substituted, Substituted, Eos]);
    assert_eq!(labels(Phrase(3)), labels(Token));
    let mut encoder = PairEncoder::new(tokenizer.clone(), "</s>").unwrap();
    encoder.granularity = Phrase(1);
    let pair = encoder.encode(&record("abcde", "XbYde")).unwrap();
    assert_eq!(pair.revised.token_labels().iter().filter(|label| **label == Substituted).count(), 3);
}

#[test]
fn padding_and_truncation_of_the_tokenizer_file_are_switched_off() {
    let mut padded = tokenizer();
    padded.with_padding(Some(PaddingParams { pad_to_multiple_of: Some(32), ..Default::default() }));
    padded.with_truncation(Some(TruncationParams { max_length: 3, ..Default::default() })).unwrap();
    let mut encoder = PairEncoder::new(padded, "</s>").unwrap();
    encoder.template = PromptTemplate::Plain;
    assert_eq!(encoder.encode(&record("abc", "abd")).unwrap().original.input_ids().len(), 8);
}

#[test]
fn a_missing_eos_token_is_named() {
    let message = PairEncoder::new(tokenizer(), "<|im_end|>").unwrap_err().to_string();
    assert!(message.contains("\"<|im_end|>\""), "{message}");
}

#[test]
fn the_default_prompts_are_those_of_alpaca() {
    let mut record = record("", "");
    record.instruction = "Do it.".into();
    let without = "Below is an instruction that describes a task. Write a response that appropriately completes the \
                   request.\n\n### Instruction:\nDo it.\n\n### Response: ";
    assert_eq!(PromptTemplate::Alpaca.render(&record).unwrap(), without);
    record.input = "this".into();
    let with = "Below is an instruction that describes a task, paired with an input that provides further context. \
                Write a response that appropriately completes the request.\n\n### Instruction:\nDo it.\n\n\
                ### Input:\nthis\n\n### Response: ";
    assert_eq!(PromptTemplate::Alpaca.render(&record).unwrap(), with);
}

const A: &str = r#"{"instruction": "i", "output": "o", "original_output": "a", "revised_output": "b", "score": 3}"#;
const B: &str = r#"{"instruction": "i", "input": "n", "output": "o", "original_output": "a\n", "revised_output": "ü"}"#;

fn read(name: &str, content: impl AsRef<[u8]>) -> Result<Vec<SpaRecord>, Error> {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join(name);
    fs::write(&path, content).unwrap();
    SpaRecord::read(path)
}

#[test]
fn both_formats_hold_the_same_records() {
    let lines = read("x.jsonl", format!("\u{feff}{A}\r\n\n  \n{B}")).unwrap();
    let array = read("x.json", format!("[{A},\n{B}]\n")).unwrap();
    assert_eq!(lines, array);
    assert_eq!((lines.len(), &*lines[0].input, &*lines[1].input, &*lines[1].revised_output.text()), (2, "", "n", "ü"));
    let with_null = A.replacen('{', r#"{"input": null, "#, 1);
    assert_eq!(read("X.JSONL", with_null).unwrap(), lines[..1]);
    assert_eq!(read("x.jsonl", "").unwrap(), []);
    assert_eq!(read("x.json", "[]").unwrap(), []);
}

#[test]
fn a_broken_record_names_path_and_line() {
    let broken_lines: [(&[u8], &str); 5] = [
        (br#"{"instruction": "i", "output": "o", "original_output": "a"}"#, "the field `revised_output` is missing"),
        (
            br#"{"instruction": "i", "output": 3, "original_output": "a", "revised_output": "b"}"#,
            "`output` is a number, expected a string or messages",
        ),
        (br#"{"instruction": "i"#, "EOF while parsing a string"),
        (b"{\"instruction\": \"\xff\"}", "invalid unicode code point"),
        (b"3", "invalid type: integer `3`, expected a record"),
    ];
    for (broken, expected) in broken_lines {
        let error =
            read("x.jsonl", [A.as_bytes(), b"\n\n", broken, b"\n", A.as_bytes()].concat()).unwrap_err().to_string();
        assert!(error.contains("x.jsonl:3:") && error.contains(expected), "{error}");
        assert!(!error.contains("at line") && !error.contains('\n'), "{error}");
        let error = read("x.json", [b"[", A.as_bytes(), b",\n", broken, b"]"].concat()).unwrap_err().to_string();
        assert!(error.contains("x.json:2:"), "{error}");
    }
}

#[test]
fn the_other_format_is_recognised() {
    assert_eq!(read("x.json", format!("\n{A}\n{B}")).unwrap().len(), 2);
    let error = read("x.jsonl", format!("[{A},\n{B}]")).unwrap_err().to_string();
    assert!(error.contains("x.jsonl:1: ") && error.contains("one array of records is a .json file"), "{error}");
    assert_eq!(read("x.json", "").unwrap(), []);
}

#[test]
fn a_file_that_cannot_be_read_is_named() {
    let error = SpaRecord::read("nowhere/x.jsonl").unwrap_err();
    assert!(matches!(error, Error::Io { .. }) && error.to_string().starts_with("nowhere/x.jsonl: "), "{error}");
    let error = SpaRecord::read("nowhere/x.csv").unwrap_err().to_string();
    assert!(error.contains("x.csv") && error.contains(".jsonl"), "{error}");
}

#[test]
fn collate_pads_on_the_right() {
    let example = |ids: &[u32]| {
        let labels = ids.iter().map(|&id| i64::from(id)).collect();
        Example::new(ids.to_vec(), labels, vec![1.0; ids.len()], vec![Kept; ids.len()]).unwrap()
    };
    let batch = collate(&[example(&[1, 2, 3]), example(&[4])], 9);
    assert_eq!((batch.batch_size, batch.seq_len), (2, 3));
    assert_eq!(batch.input_ids, [1, 2, 3, 4, 9, 9]);
    assert_eq!(batch.attention_mask, [true, true, true, true, false, false]);
    assert_eq!(batch.labels, [1, 2, 3, 4, -100, -100]);
    assert_eq!(batch.weights, [1.0, 1.0, 1.0, 1.0, 0.0, 0.0]);

    assert!(collate(&[], 9).input_ids.is_empty());
}

#[test]
fn the_parts_of_an_example_are_equally_long() {
    let error = |labels, weights, tokens| {
        Example::new(vec![1, 2], vec![1; labels], vec![1.0; weights], vec![Kept; tokens]).unwrap_err().to_string()
    };
    assert_eq!(error(1, 2, 2), "labels: expected one entry for each of input_ids, got 1 entries for 2 ids");
    assert_eq!(error(2, 3, 2), "weights: expected one entry for each of input_ids, got 3 entries for 2 ids");
    assert_eq!(error(2, 2, 0), "token_labels: expected one entry for each of input_ids, got 0 entries for 2 ids");
}

#[cfg(feature = "torch")]
#[test]
fn a_batch_becomes_tensors() {
    use figa_loss::tch::{Device, Kind};
    let encoder = encoder(PromptTemplate::Plain);
    let pair = encoder.encode(&record("abc", "abdef")).unwrap();
    let mut batch = collate(pair.rows(), encoder.eos_id());
    let tensors = batch.to_tensors(Device::Cpu).unwrap();
    for (tensor, kind) in [
        (&tensors.input_ids, Kind::Int64),
        (&tensors.attention_mask, Kind::Bool),
        (&tensors.labels, Kind::Int64),
        (&tensors.weights, Kind::Float),
    ] {
        assert_eq!((tensor.size(), tensor.kind()), (vec![2, 10], kind));
    }
    assert_eq!(Vec::<i64>::try_from(tensors.input_ids.reshape([-1])).unwrap(), batch.input_ids);
    batch.labels.pop();
    assert!(matches!(batch.to_tensors(Device::Cpu), Err(Error::Value { argument: "batch.labels", .. })));
    batch.batch_size = usize::MAX;
    assert!(matches!(batch.to_tensors(Device::Cpu), Err(Error::Value { argument: "batch.input_ids", .. })));
    if !Device::cuda_if_available().is_cuda() {
        let error = collate(&[], 0).to_tensors(Device::Cuda(0)).unwrap_err().to_string();
        assert!(!error.is_empty() && !error.contains('\n'), "{error}");
    }
    assert_eq!(collate(&[], 0).to_tensors(Device::Cpu).unwrap().input_ids.size(), [0, 0]);
}

#[test]
fn the_embedded_records_are_minimal_revisions() {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("examples/data/spa_tiny.jsonl");
    let records = SpaRecord::read(path).unwrap();
    assert!(records.len() >= 240);
    let instructions: HashSet<_> = records.iter().map(|record| &record.instruction).collect();
    assert_eq!(instructions.len(), records.len(), "an instruction occurs twice");
    for record in &records {
        assert!(!record.output.is_empty());
        let answers = [&record.original_output, &record.revised_output].map(|answer| answer.text());
        let [original, revised] = answers.each_ref().map(|answer| answer.split_whitespace().collect::<Vec<_>>());
        let edits = figa_loss::distance(&original, &revised);
        assert!(edits > 0, "no revision: {record:?}");
        assert!(edits * 2 <= original.len().max(revised.len()), "{edits} words changed: {record:?}");
    }
}

/// The batch of `fixtures/labels.py`, which `figa label` and Python make.
#[cfg(feature = "torch")]
#[test]
fn python_computes_the_same_loss_from_the_labels() {
    use figa_loss::figa_loss;
    use figa_loss::tch::{Device, Kind, Tensor};
    let fixtures = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures");
    let expected: serde_json::Value = serde_json::from_slice(&fs::read(fixtures.join("labels.json")).unwrap()).unwrap();
    let mut encoder = PairEncoder::read(fixtures.join("labels-tokenizer.json"), Some("</s>")).unwrap();
    encoder.template = PromptTemplate::Plain;
    encoder.weights = figa_loss::FigaWeights::paper();
    let records = SpaRecord::read(fixtures.join("../../examples/data/spa_tiny.jsonl")).unwrap();
    let pairs: Vec<_> = records[..8].iter().map(|record| encoder.encode(record).unwrap()).collect();
    let batch = collate(pairs.iter().flat_map(EncodedPair::rows), 0);
    let batch = batch.to_tensors(Device::Cpu).unwrap();
    let double = (Kind::Double, Device::Cpu);
    let vocab = encoder.tokenizer().get_vocab_size(true) as i64;
    let (ids, rows) = (&batch.input_ids, batch.input_ids.size()[0]);
    let steps = ids.size()[1] - 1;
    let logits = (ids.to_kind(Kind::Double).unsqueeze(2) + Tensor::arange(vocab, double) * 0.37).sin() * 2;
    let boost = (Tensor::arange(steps, double).sin() * 8).expand([rows, steps], false).unsqueeze(2);
    let _ = logits.narrow(1, 0, steps).scatter_add_(2, &ids.narrow(1, 1, steps).unsqueeze(2), &boost);
    let logits = logits.to_kind(Kind::Float).set_requires_grad(true);
    assert_eq!(serde_json::json!(logits.size()), expected["shape"]);
    let loss = figa_loss(&logits, &batch.labels, &batch.weights).unwrap();
    loss.backward();
    let close = |ours: &Tensor, name: &str| {
        let (ours, theirs) = (ours.double_value(&[]), expected[name].as_f64().unwrap());
        assert!((ours - theirs).abs() < 1e-6, "{name}: {ours} but {theirs}");
    };
    close(&loss, "loss");
    close(&logits.grad().norm(), "grad_norm");
    assert!((loss.double_value(&[]) - expected["ungated"].as_f64().unwrap()).abs() > 1e-3, "the gate has no effect");
}
