//! Interrupted and killed runs, and what a resumed one continues with.

mod common;

use std::cell::RefCell;
use std::fs;
use std::path::Path;

use common::{Sandbox, load};
use figa_finetune::run;
use figa_loss::tch::{Kind, Tensor};

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
