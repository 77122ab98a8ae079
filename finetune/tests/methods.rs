//! Every method of the table: what it weighs, what it learns, and that neither the number of passes nor an interruption
//! changes a step.

mod common;

use std::collections::BTreeMap;
use std::fs;

use common::Sandbox;
use figa_finetune::decoder::Config;
use figa_finetune::encode::{Dataset, Encoder};
use figa_finetune::method::{METHODS, Method};
use figa_loss::SpaRecord;
use figa_loss::tch::{Kind, Tensor};
use serde_json::Value;

/// The methods with a loss of pairs.
const OF_PAIRS: [&str; 4] = ["dpo", "ddpo", "simpo", "orpo"];

fn numbers(lines: &[Value], key: &str) -> Vec<f64> {
    lines.iter().map(|line| line[key].as_f64().unwrap()).collect()
}

fn encoder(sandbox: &Sandbox) -> Encoder {
    let model = sandbox.path("model");
    let config = Config::read(&model).unwrap();
    Encoder::new(&model, &config, &sandbox.args("out", &["--max-length=20"]).rows).unwrap()
}

#[test]
fn methods_weigh_tokens_differently() {
    let sandbox = Sandbox::new("qwen2");
    let encoder = encoder(&sandbox);
    let record = SpaRecord::new("w3", "w4 w5 w6 w7 w8", "w9 w5 w6 w10 w8");
    let data = Dataset { path: "pairs.jsonl".into(), records: vec![record] };
    let penalties = vec![-0.5, 0.0, 0.0, -0.5, 0.0, 0.0];
    let rewards = vec![1.0, 0.3, 0.3, 1.0, 0.3, 0.3];
    let of_paper = vec![1.0, 0.0, 0.0, 1.0, 0.0, 1.0];
    for (method, expected) in [
        ("figa", vec![penalties.clone(), rewards.clone()]),
        ("sft", vec![vec![1.0; 6]]),
        ("figa+beta=0", vec![rewards.clone()]),
        ("figa+paper", vec![penalties.clone(), of_paper.clone()]),
        ("figa+gamma=1+eos=1", vec![penalties.clone(), vec![1.0; 6]]),
        ("figa+gamma=0.5+eos=0", vec![penalties.clone(), vec![1.0, 0.5, 0.5, 1.0, 0.5, 0.0]]),
        ("figa+granularity=phrase:2", vec![vec![-0.5, -0.5, -0.5, -0.5, 0.0, 0.0], vec![1.0, 1.0, 1.0, 1.0, 0.3, 0.3]]),
        ("figa-kl", vec![penalties.clone(), of_paper]),
        ("figa+aligner=myers+gamma=0.5", vec![penalties.clone(), vec![1.0, 0.5, 0.5, 1.0, 0.5, 0.3]]),
        ("dft", vec![vec![1.0; 6]]),
        ("dpo", vec![vec![1.0; 6]; 2]),
        ("ddpo", vec![vec![3.0, 1.0, 1.0, 3.0, 1.0, 1.0]; 2]),
    ] {
        let rows = encoder.rows(&data, method.parse::<Method>().unwrap()).unwrap();
        let weights: Vec<Vec<f32>> = rows[0].iter().map(|row| row.example.weights()[1..].to_vec()).collect();
        assert_eq!(weights, expected, "{method}");
        let anchor: Vec<&[f32]> = rows[0].iter().map(|row| &*row.anchor).collect();
        match method {
            "figa-kl" => assert_eq!(anchor, [&[0.0; 7][..], &[0.0, 0.0, 1.0, 1.0, 0.0, 1.0, 0.0]]),
            _ => assert!(anchor.iter().all(|weights| weights.is_empty()), "{method}"),
        }
    }
}

#[test]
fn shuffled_labels_are_as_many_in_other_places() {
    let sandbox = Sandbox::new("qwen2");
    let encoder = encoder(&sandbox);
    let record = SpaRecord::new("w3", "w4 w5 w6 w7 w8 w11 w12", "w9 w5 w6 w10 w8 w11 w12");
    let data = Dataset { path: "pairs.jsonl".into(), records: vec![record] };
    let weights = |method: &str| -> Vec<Vec<f32>> {
        let rows = encoder.rows(&data, method.parse::<Method>().unwrap()).unwrap();
        rows[0].iter().map(|row| row.example.weights().to_vec()).collect()
    };
    let (plain, shuffled) = (weights("figa"), weights("figa+labels=shuffled"));
    assert_ne!(plain, shuffled);
    assert_eq!(shuffled, weights("figa+labels=shuffled"));
    for (plain, shuffled) in plain.iter().zip(&shuffled) {
        let sorted = |weights: &[f32]| {
            let mut weights = weights.to_vec();
            weights.sort_by(f32::total_cmp);
            weights
        };
        assert_eq!(sorted(plain), sorted(shuffled));
        // Neither the prompt nor EOS takes part.
        assert_eq!((shuffled[0], shuffled.last()), (plain[0], plain.last()));
    }
}

/// The gradient of the first step, by parameter: the first moments are a tenth of it.
fn first_gradient(sandbox: &Sandbox, out: &str, more: &[&str]) -> BTreeMap<String, Tensor> {
    sandbox.run_interrupted(out, more, 1);
    let moments = Tensor::read_safetensors(sandbox.path(&format!("{out}/checkpoint-1/optimizer.safetensors"))).unwrap();
    moments.into_iter().filter(|(name, _)| name.starts_with("mean.")).collect()
}

#[test]
fn a_step_depends_neither_on_the_number_of_passes_nor_on_the_rows() {
    let sandbox = Sandbox::new("qwen2");
    for (Method { name, .. }, other) in
        METHODS.iter().flat_map(|method| [(method, "--micro-batch=1"), (method, "--separate-rows")])
    {
        let [whole, parts] = ["--micro-batch=4", other].map(|more| {
            let out = format!("{name}{more}{other}");
            let gradient = first_gradient(&sandbox, &out, &["--method", name, "--batch=4", more]);
            assert!(sandbox.resume(&out).unwrap());
            (gradient, sandbox.metrics(&format!("{out}/metrics.jsonl")))
        });
        let name = *name;
        for (parameter, gradient) in &whole.0 {
            let difference = (gradient - &parts.0[parameter]).abs().max().double_value(&[]);
            let size = gradient.abs().max().double_value(&[]);
            assert!(size > 0.0 && difference < 1e-4 * size, "{name}: {parameter} {size:e} {difference:e}");
        }
        for key in ["loss", "grad_norm", "gated", "kl", "accuracy", "margin"] {
            for (one, other) in whole.1.iter().zip(&parts.1) {
                let (one, other) = (one[key].as_f64(), other[key].as_f64());
                let difference = one.unwrap_or(0.0) - other.unwrap_or(0.0);
                assert!(one.is_some() == other.is_some(), "{name} {key}");
                assert!(difference.abs() < 2e-3 * one.unwrap_or(0.0).abs().max(1.0), "{name} {key} {one:?} {other:?}");
            }
        }
        let computed = |metrics: &[Value]| numbers(metrics, "computed").iter().sum::<f64>();
        if (name, other) == ("figa", "--separate-rows") {
            assert!(computed(&whole.1) < computed(&parts.1));
        }
        // Without a gate, or tokens that it skips, the test would not see a wrong denominator.
        let has_gate = !["sft", "dft", "eaft", "asft"].contains(&name);
        let gated: f64 = numbers(&whole.1, "gated").iter().sum();
        assert_eq!(gated > 0.0, has_gate && !OF_PAIRS.contains(&name), "{name}");
    }
}

#[test]
fn each_method_learns_from_the_pairs() {
    let sandbox = Sandbox::new("llama3");
    let pairs = sandbox.text_path("pairs.jsonl");
    for Method { name, .. } in METHODS {
        let more = ["--method", name, "--eval", &pairs, "--answers=0", "--batch=10", "--steps=10"];
        assert!(sandbox.run(name, &more).unwrap());
        let lines = sandbox.metrics(&format!("{name}/metrics.jsonl"));
        let outcome = sandbox.outcome(&format!("{name}/outcome.json"));
        let score = |at: usize, key: &str| outcome["evaluations"][at]["scores"][key].as_f64().unwrap();
        assert!(score(1, "p_added") > score(0, "p_added"), "{name}");
        let is_of_pairs = OF_PAIRS.contains(&name);
        if is_of_pairs {
            assert!(score(1, "revised_likelier") > score(0, "revised_likelier"), "{name}");
            let (accuracy, margin) = (numbers(&lines, "accuracy"), numbers(&lines, "margin"));
            assert!(accuracy[9] > accuracy[0] && margin[9] > margin[0], "{name} {accuracy:?} {margin:?}");
        }
        assert_eq!(lines[0]["accuracy"].is_f64(), is_of_pairs);
        // The factor of DFT grows with the probability that it teaches.
        let losses = numbers(&lines, "loss");
        assert!(losses[9] < losses[0] || ["dft", "asft"].contains(&name), "{name} {losses:?}");
    }
}

/// A model starts as its own reference.
#[test]
fn losses_start_from_the_base_model() {
    let sandbox = Sandbox::new("llama2");
    for name in ["dpo", "ddpo", "figa-kl", "asft"] {
        assert!(sandbox.run(name, &["--method", name]).unwrap());
        let lines = sandbox.metrics(&format!("{name}/metrics.jsonl"));
        if OF_PAIRS.contains(&name) {
            let (loss, margin) = (numbers(&lines, "loss"), numbers(&lines, "margin"));
            assert!((loss[0] - 2f64.ln()).abs() < 1e-6 && margin[0].abs() < 1e-6, "{name} {loss:?} {margin:?}");
        } else {
            let kl = numbers(&lines, "kl");
            assert!(kl[0].abs() < 1e-6 && kl[1..].iter().all(|&kl| kl > 1e-5), "{name} {kl:?}");
        }
    }
    // Without a divergence, nothing but the loss beside it remains.
    let first_loss = |name: &str, key: &str| {
        assert!(sandbox.run(&format!("{name}-{key}"), &["--method", name, "--steps=1"]).unwrap());
        numbers(&sandbox.metrics(&format!("{name}-{key}/metrics.jsonl")), key)[0]
    };
    for key in ["loss", "grad_norm"] {
        for (anchored, plain) in [("figa-kl", "figa+paper"), ("asft", "dft")] {
            let (anchored, plain) = (first_loss(anchored, key), first_loss(plain, key));
            assert!((anchored - plain).abs() < 1e-5 * plain, "{key} {anchored} {plain}");
        }
    }
    // A tenth of -log sigmoid, beside the likelihood.
    let odds = first_loss("orpo", "loss") - first_loss("sft", "loss");
    assert!(odds > 0.0 && odds < 0.2, "{odds}");
}

#[test]
fn an_anchor_keeps_kept_tokens_closer_to_the_base_model() {
    let sandbox = Sandbox::new("llama3");
    let pairs = sandbox.text_path("pairs.jsonl");
    let [figa, anchored] = ["figa+paper", "figa-kl"].map(|name| {
        let more = ["--method", name, "--eval", &pairs, "--answers=0", "--batch=10", "--steps=20"];
        assert!(sandbox.run(name, &more).unwrap());
        let outcome = sandbox.outcome(&format!("{name}/outcome.json"));
        [0, 1].map(|at| outcome["evaluations"][at]["scores"]["p_kept"].as_f64().unwrap())
    });
    let change = |[before, after]: [f64; 2]| (after - before).abs();
    assert!(change(anchored) < change(figa), "{anchored:?} {figa:?}");
}

#[test]
fn a_resumed_run_with_a_reference_equals_an_uninterrupted_one() {
    let sandbox = Sandbox::new("llama3");
    for (name, precision) in [("dpo", &["--bf16"][..]), ("ddpo", &[]), ("figa-kl", &["--bf16"]), ("asft", &[])] {
        let more = [&["--method", name][..], precision].concat();
        let [whole, resumed] = ["whole", "resumed"].map(|run| format!("{name}-{run}"));
        assert!(sandbox.run(&whole, &more).unwrap());
        for lose_reference in [false, true] {
            sandbox.run_interrupted(&resumed, &more, 3);
            let reference = sandbox.path(&format!("{resumed}/reference.safetensors"));
            assert_eq!(reference.exists(), OF_PAIRS.contains(&name));
            if lose_reference {
                // As if the file had not reached the disk: it is that of the base model, not of the checkpoint.
                let _ = fs::remove_file(&reference);
            }
            assert!(sandbox.resume(&resumed).unwrap());
            assert!(sandbox.trained(&resumed) == sandbox.trained(&whole), "{name}");
            let metrics = |run: &str| sandbox.metrics(&format!("{run}/metrics.jsonl"));
            assert_eq!(metrics(&resumed), metrics(&whole));
            fs::remove_dir_all(sandbox.path(&resumed)).unwrap();
        }
    }
}

#[test]
fn the_runs_of_a_folder_share_a_reference() {
    let sandbox = Sandbox::new("qwen2");
    assert!(sandbox.run("out", &["--method=dpo,ddpo", "--steps=2"]).unwrap());
    assert!(sandbox.run("alone", &["--method=ddpo", "--steps=2"]).unwrap());
    assert!(sandbox.path("out/reference.safetensors").exists());
    assert!(sandbox.trained("out/ddpo-0") == sandbox.trained("alone"));
}

#[test]
fn a_run_is_not_resumed_with_other_inputs() {
    let sandbox = Sandbox::new("qwen2");
    let eval = sandbox.text_path("eval.jsonl");
    fs::copy(sandbox.path("pairs.jsonl"), &eval).unwrap();
    sandbox.run_interrupted("out", &["--method=dpo", "--eval", &eval, "--answers=0"], 2);
    let refused = || format!("{:#}", sandbox.resume("out").unwrap_err());
    let message = |argument: &str| {
        format!("--resume: the content of {argument} has changed since the run began: restore it, or start a new run")
    };
    for (file, argument) in [("pairs.jsonl", "--data"), ("eval.jsonl", "--eval")] {
        let before = sandbox.text(file);
        fs::write(sandbox.path(file), before.replacen("w18", "w19", 1)).unwrap();
        assert_eq!(refused(), message(argument));
        fs::write(sandbox.path(file), before).unwrap();
    }
    sandbox.change_tensors(|_, tensor| tensor.to_kind(Kind::Double) * 1.01);
    assert_eq!(refused(), message("--model"));
    sandbox.change_tensors(|_, tensor| (tensor / 1.01).to_kind(Kind::Float));
}

#[test]
fn pairs_without_a_preference_are_counted_and_not_enough() {
    let sandbox = Sandbox::new("qwen2");
    // The answers differ in their third word.
    let error = sandbox.error("out", &["--method=dpo", "--max-length=3"]);
    let expected = "[folder]/pairs.jsonl: --method dpo learns nothing from any pair; check that the answers differ within \
                    --max-length, or choose another method";
    assert_eq!(error, expected);
    let reference = sandbox.path("out/reference.safetensors");
    assert!(!reference.exists());
    fs::create_dir_all(sandbox.path("bad")).unwrap();
    fs::copy(sandbox.path("model/config.json"), sandbox.path("bad/reference.safetensors")).unwrap();
    assert!(sandbox.error("bad", &["--method=dpo"]).starts_with("[folder]/bad/reference.safetensors: "));
}
