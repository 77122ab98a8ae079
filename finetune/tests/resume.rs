//! Interrupted and killed runs, and what a resumed one continues with.

mod common;

use std::cell::RefCell;
use std::fs;
use std::path::Path;

use common::{CHECKPOINTS, Sandbox, load};
use figa_finetune::run;
use figa_loss::tch::{Kind, Tensor};
use serde_json::Value;

#[test]
fn a_resumed_run_equals_an_uninterrupted_one() {
    let sandbox = Sandbox::new("llama3");
    let pairs = sandbox.text_path("pairs.jsonl");
    let more = ["--eval", &pairs, "--eval-every", "2", "--answers", "4"];
    assert!(sandbox.run("uninterrupted", &more).unwrap());
    sandbox.run_interrupted("resumed", &more, 3);
    assert!(sandbox.path("resumed/checkpoint-3/model.safetensors").exists());
    // As if the run had been killed during the next step.
    let mut log = sandbox.bytes("resumed/metrics.jsonl");
    log.extend_from_slice(b"{\"step\": 4, \"loss\"");
    fs::write(sandbox.path("resumed/metrics.jsonl"), log).unwrap();
    assert!(sandbox.resume("resumed").unwrap());

    assert_eq!(sandbox.metrics("resumed/metrics.jsonl").len(), 6);
    assert_eq!(sandbox.metrics("resumed/metrics.jsonl"), sandbox.metrics("uninterrupted/metrics.jsonl"));
    assert_eq!(sandbox.outcome("resumed/outcome.json"), sandbox.outcome("uninterrupted/outcome.json"));
    assert!(sandbox.trained("resumed") == sandbox.trained("uninterrupted"));
    assert!(sandbox.trained("resumed") != sandbox.bytes("model/model.safetensors"));
    assert!(!sandbox.path("resumed/checkpoint-3").exists());
    // The trained model is finite and has a lower loss.
    let trained = load(&sandbox.path("resumed/model"));
    assert!(trained.parameters.values().all(|tensor| tensor.isfinite().all().int64_value(&[]) == 1));
    let outcome = sandbox.outcome("resumed/outcome.json");
    let losses: Vec<f64> = outcome["losses"].as_array().unwrap().iter().map(|loss| loss.as_f64().unwrap()).collect();
    assert!(losses[5] < losses[0], "{losses:?}");
    assert!(sandbox.path("resumed/report.html").exists());
    // A finished run stays as it is, and no other one may replace it.
    assert!(sandbox.resume("resumed").unwrap());
    assert!(sandbox.trained("resumed") == sandbox.trained("uninterrupted"));
    assert!(sandbox.error("resumed", &[]).contains("contains a run"));
}

#[test]
fn a_run_of_each_family_can_be_resumed() {
    for name in CHECKPOINTS {
        let sandbox = Sandbox::new(name);
        let pairs = sandbox.text_path("pairs.jsonl");
        let more = ["--eval", &pairs, "--answers=2", "--steps=3"];
        assert!(sandbox.run("uninterrupted", &more).unwrap());
        sandbox.run_interrupted("resumed", &more, 1);
        assert!(sandbox.resume("resumed").unwrap());
        assert!(sandbox.trained("resumed") == sandbox.trained("uninterrupted"), "{name}");
        let trained = load(&sandbox.path("resumed/model"));
        assert!(trained.parameters.values().all(|tensor| tensor.isfinite().all().int64_value(&[]) == 1), "{name}");
    }
}

/// Zeroed gradients and those that do not exist yet move the moments alike.
#[test]
fn a_run_can_be_resumed_before_any_step() {
    let sandbox = Sandbox::new("llama2");
    // The answers of half of the records differ only behind the maximum length, so their rows have no active token.
    let text = fs::read_to_string(sandbox.path("pairs.jsonl")).unwrap();
    let lines = text.lines().enumerate().map(|(at, line)| match at % 2 {
        0 => format!("{line}\n"),
        _ => format!("{}\n", line.replace("\"instruction\":\"", &format!("\"instruction\":\"{}", "w3 ".repeat(9)))),
    });
    fs::write(sandbox.path("pairs.jsonl"), lines.collect::<String>()).unwrap();
    // With the weights of the paper, kept tokens are not active.
    let more = ["--batch=1", "--method=figa+paper"];
    assert!(sandbox.run("uninterrupted", &more).unwrap());
    let active = |line: &Value| line["active"].as_u64().unwrap();
    let steps: Vec<u64> = sandbox.metrics("uninterrupted/metrics.jsonl").iter().map(active).collect();
    assert!(steps.windows(2).any(|pair| pair[0] > 0 && pair[1] == 0), "{steps:?}");
    for step in 1..6 {
        let name = format!("resumed-{step}");
        sandbox.run_interrupted(&name, &more, step);
        // As if a power failure had cost the log, which is not synced.
        fs::remove_file(sandbox.path(&format!("{name}/metrics.jsonl"))).unwrap();
        assert!(sandbox.resume(&name).unwrap());
        assert!(sandbox.trained(&name) == sandbox.trained("uninterrupted"), "interrupted after step {step}");
        let metrics = sandbox.metrics(&format!("{name}/metrics.jsonl"));
        assert_eq!(metrics, sandbox.metrics("uninterrupted/metrics.jsonl"));
    }
}

#[test]
fn only_one_process_trains_in_a_folder() {
    let sandbox = Sandbox::new("qwen2");
    let second = RefCell::new(String::new());
    let interrupted = || {
        *second.borrow_mut() = format!("{:#}", sandbox.resume("out").unwrap_err());
        true
    };
    assert!(!run(sandbox.args("out", &[]), &interrupted).unwrap());
    let expected = format!("--out: another process is training in {}", sandbox.text_path("out"));
    assert_eq!(second.into_inner(), expected);
    // What a killed process leaves behind is removed.
    fs::create_dir_all(sandbox.path("out/checkpoint-9.partial-abc/nested")).unwrap();
    fs::write(sandbox.path("out/run.json.partial-abc"), "").unwrap();
    fs::write(sandbox.path("out/mine.partial-abc"), "").unwrap();
    assert!(sandbox.resume("out").unwrap());
    let left = ["checkpoint-9.partial-abc", "run.json.partial-abc", "mine.partial-abc"];
    assert_eq!(left.map(|name| sandbox.path(&format!("out/{name}")).exists()), [false, false, true]);
}

/// Each tensor keeps its own dtype, in whatever order they are read.
#[test]
fn a_trained_model_has_the_dtypes_of_its_base() {
    let sandbox = Sandbox::new("llama3");
    let kind = |name: &str| if name.contains("norm") { Kind::Float } else { Kind::BFloat16 };
    sandbox.change_tensors(|name, tensor| tensor.to_kind(kind(name)));
    assert!(sandbox.run("out", &["--steps=1"]).unwrap());
    for (name, tensor) in Tensor::read_safetensors(sandbox.path("out/model/model.safetensors")).unwrap() {
        assert_eq!(tensor.kind(), kind(&name), "{name}");
    }
}

#[test]
fn a_resumed_run_in_bf16_equals_an_uninterrupted_one_and_keeps_the_dtype() {
    let sandbox = Sandbox::new("qwen2");
    sandbox.change_tensors(|_, tensor| tensor.to_kind(Kind::BFloat16));
    let more = ["--bf16", "--freeze-below=1", "--save-every=2"];
    assert!(sandbox.run("uninterrupted", &more).unwrap());
    sandbox.run_interrupted("resumed", &more, 1);
    assert!(sandbox.resume("resumed").unwrap());
    assert!(sandbox.trained("resumed") == sandbox.trained("uninterrupted"));
    let tensors = Tensor::read_safetensors(sandbox.path("resumed/model/model.safetensors")).unwrap();
    assert!(tensors.iter().all(|(_, tensor)| tensor.kind() == Kind::BFloat16));
}

#[test]
fn a_checkpoint_replaces_the_previous_one() {
    let sandbox = Sandbox::new("qwen2");
    let after_each_step = RefCell::new(vec![]);
    let interrupted = || {
        after_each_step.borrow_mut().push(checkpoints(&sandbox.path("out")));
        false
    };
    assert!(run(sandbox.args("out", &["--save-every=2"]), &interrupted).unwrap());
    // The checkpoint of a step is written after `interrupted` is called, and none is written after the last step.
    assert_eq!(after_each_step.into_inner(), [&[][..], &[], &["checkpoint-2"], &["checkpoint-2"], &["checkpoint-4"]]);
    assert_eq!(checkpoints(&sandbox.path("out")), [""; 0]);
}

fn checkpoints(run: &Path) -> Vec<String> {
    let names = fs::read_dir(run).unwrap().map(|entry| entry.unwrap().file_name().into_string().unwrap());
    names.filter(|name| name.starts_with("checkpoint")).collect()
}
