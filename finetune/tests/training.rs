//! What a run trains, and what it writes.

mod common;

use std::collections::HashMap;

use common::Sandbox;
use figa_finetune::method::{METHODS, Method};
use figa_loss::tch::{Kind, Tensor};

#[test]
fn all_methods_start_from_the_same_model() {
    let sandbox = Sandbox::new("qwen2");
    let pairs = sandbox.text_path("pairs.jsonl");
    assert!(sandbox.run("out", &["--eval", &pairs, "--answers=2", "--compare", "--steps=2"]).unwrap());
    let baseline = sandbox.outcome("out/figa-0/outcome.json")["evaluations"][0].clone();
    assert_eq!(baseline["step"], 0);
    let mut models = vec![];
    for Method { name, .. } in METHODS {
        let outcome = sandbox.outcome(&format!("out/{name}-0/outcome.json"));
        assert_eq!(outcome["evaluations"][0], baseline, "{name}");
        assert_eq!(outcome["evaluations"].as_array().unwrap().len(), 2);
        assert!(sandbox.path(&format!("out/{name}-0/model/config.json")).exists());
        models.push(sandbox.trained(&format!("out/{name}-0")));
    }
    assert!(models[0] != models[1], "figa and sft");
    let report = String::from_utf8(sandbox.bytes("out/report.html")).unwrap();
    assert!(METHODS.iter().all(|method| report.contains(&format!("<th scope=\"row\">{}</th>", method.name))));
    assert!(sandbox.path("out/figures/p_added.svg").exists() && sandbox.path("out/figures/p_added.png").exists());
}

#[test]
fn seeds_change_the_order_of_the_data() {
    let sandbox = Sandbox::new("qwen2");
    assert!(sandbox.run("out", &["--method=figa,sft", "--seeds=2", "--steps=2"]).unwrap());
    let mut models = ["figa-0", "figa-1", "sft-0", "sft-1"].map(|run| sandbox.trained(&format!("out/{run}"))).to_vec();
    models.sort();
    models.dedup();
    assert_eq!(models.len(), 4);
}

#[test]
fn frozen_parameters_stay_and_all_others_learn_in_bf16() {
    let sandbox = Sandbox::new("qwen2");
    assert!(sandbox.run("out", &["--freeze-below", "1", "--bf16"]).unwrap());
    let tensors = |path: &str| Tensor::read_safetensors(sandbox.path(path)).unwrap().into_iter();
    let mut trained: HashMap<_, _> = tensors("out/model/model.safetensors").collect();
    for (name, before) in tensors("model/model.safetensors") {
        let after = trained.remove(&name).unwrap();
        assert_eq!(after.kind(), before.kind());
        let frozen = name.starts_with("model.layers.0.") || name == "model.embed_tokens.weight";
        let expected = if frozen { before.to_kind(Kind::BFloat16).to_kind(before.kind()) } else { before };
        assert_eq!(after.equal(&expected), frozen, "{name}");
    }
}

#[test]
fn recomputed_activations_do_not_change_a_run() {
    let sandbox = Sandbox::new("gemma3");
    for (method, freeze) in [("figa", "0"), ("dpo", "1"), ("figa-kl", "3")] {
        let run = |out: &str, more: &[&str]| {
            let fixed = ["--method", method, "--freeze-below", freeze, "--steps=2"];
            assert!(sandbox.run(&format!("{method}-{out}"), &[&fixed, more].concat()).unwrap());
            let path = sandbox.path(&format!("{method}-{out}/model/model.safetensors"));
            Tensor::read_safetensors(path).unwrap().into_iter().collect::<HashMap<_, _>>()
        };
        let (kept, recomputed) = (run("kept", &[]), run("recomputed", &["--checkpoint-activations"]));
        for (name, kept) in kept {
            // The first steps of AdamW are as long for a small gradient as for a large one.
            assert!(kept.allclose(&recomputed[&name], 1e-3, 1e-3, false), "{method} {name}");
        }
    }
}

#[test]
fn weights_in_bf16_take_steps_that_are_smaller_than_their_precision() {
    let sandbox = Sandbox::new("qwen2");
    sandbox.change_tensors(|_, tensor| tensor.to_kind(Kind::BFloat16));
    // A step is a thousandth of the distance between neighbours.
    let arguments = ["--bf16", "--bf16-weights", "--steps=4", "--lr=1e-6", "--method=sft"];
    assert!(sandbox.run("whole", &arguments).unwrap());
    let tensors = |path: &str| Tensor::read_safetensors(sandbox.path(path)).unwrap().into_iter();
    let mut trained: HashMap<_, _> = tensors("whole/model/model.safetensors").collect();
    let changed: f64 = tensors("model/model.safetensors")
        .map(|(name, before)| trained.remove(&name).unwrap().ne_tensor(&before).sum(Kind::Double).double_value(&[]))
        .sum();
    assert!(changed > 0.0);
    sandbox.run_interrupted("resumed", &arguments, 2);
    assert!(sandbox.resume("resumed").unwrap());
    assert!(sandbox.trained("resumed") == sandbox.trained("whole"));
}

#[test]
fn a_run_ends_with_the_step_that_uses_up_its_budget() {
    let sandbox = Sandbox::new("llama3");
    for more in [&[][..], &["--separate-rows", "--micro-batch=1"]] {
        let out = format!("out{}", more.len());
        sandbox.run_interrupted(&out, &[&["--budget=500", "--method=dpo"], more].concat(), 2);
        assert!(sandbox.resume(&out).unwrap());
        let lines = sandbox.metrics(&format!("{out}/metrics.jsonl"));
        let computed: Vec<i64> = lines.iter().map(|line| line["computed"].as_i64().unwrap()).collect();
        let all: i64 = computed.iter().sum();
        assert!(all >= 500 && all - computed[computed.len() - 1] < 500, "{computed:?}");
        // The learning rate falls to the end of the budget.
        assert!(lines[lines.len() - 1]["lr"].as_f64().unwrap() < 0.1 * lines[lines.len() / 5]["lr"].as_f64().unwrap());
    }
}

#[test]
fn a_profile_writes_no_files() {
    let sandbox = Sandbox::new("qwen2");
    assert!(sandbox.run("out", &["--profile", "--method=figa,figa-kl,dpo"]).unwrap());
    assert!(!sandbox.path("out").exists());
}

#[test]
fn preference_data_trains_like_records_of_spa() {
    let sandbox = Sandbox::new("qwen2");
    assert!(sandbox.run("out", &[]).unwrap());
    let expected = sandbox.trained("out");
    let pairs = sandbox.text("pairs.jsonl");
    let names = [("instruction", "data.prompt"), ("original_output", "rejected"), ("revised_output", "chosen")];
    let renamed = names.iter().fold(pairs, |pairs, (old, new)| pairs.replace(old, new));
    std::fs::write(sandbox.path("pairs.jsonl"), renamed).unwrap();
    let fields = ["--instruction=data.prompt", "--original=rejected", "--revised=chosen"];
    assert!(sandbox.run("renamed", &fields).unwrap());
    assert!(sandbox.trained("renamed") == expected);
}

#[test]
fn the_chat_template_sees_variables_and_one_date() {
    let sandbox = Sandbox::new("qwen2");
    let template = "{{ strftime_now('w%d ') }}{{ word }} {% for m in messages %}{{ m.content }} {% endfor %}";
    std::fs::write(sandbox.path("model/chat_template.jinja"), template).unwrap();
    let arguments = ["--prompt=chat", "--template-var=word=w7", "--max-length=20"];
    let given = [&arguments[..], &["--date=2026-01-20"]].concat();
    sandbox.run_interrupted("out", &given, 2);
    let saved = sandbox.text("out/run.json");
    assert!(saved.contains("2026-01-20T00:00:00"), "{saved}");
    assert!(sandbox.resume("out").unwrap());
    assert!(sandbox.run("unbroken", &given).unwrap());
    assert!(sandbox.trained("out") == sandbox.trained("unbroken"));
    sandbox.run_interrupted("now", &arguments, 2);
    assert!(!sandbox.text("now/run.json").contains("\"date\": null"));
    let other = [&arguments[..], &["--date=2026-01-21"]].concat();
    assert!(sandbox.run("other", &other).unwrap());
    assert!(sandbox.trained("other") != sandbox.trained("unbroken"));
}
