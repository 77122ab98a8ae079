//! The parts of the example `finetune`, and the whole of it on a tiny model.

use std::cell::Cell;
use std::fs;
use std::path::{Path, PathBuf};

use anyhow::Result;
use clap::Parser;
use figa_finetune::adamw::AdamW;
use figa_finetune::generate::greedy;
use figa_finetune::llama::{Cache, Config, Llama};
use figa_finetune::pairs::{Method, Pairs, Prompt};
use figa_finetune::{Args, run};
use figa_loss::tch::nn::{self, OptimizerConfig};
use figa_loss::tch::{Device, Kind, Tensor, manual_seed, no_grad_guard};
use figa_loss::tokenizers::models::wordlevel::WordLevel;
use figa_loss::tokenizers::pre_tokenizers::whitespace::WhitespaceSplit;
use figa_loss::tokenizers::{AddedToken, Tokenizer};
use figa_loss::{Penalty, SpaRecord};
use serde_json::Value;
use tempfile::TempDir;

fn checkpoint(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures/checkpoints").join(name)
}

#[test]
fn logits_equal_those_of_transformers() {
    #[derive(serde::Deserialize)]
    struct Expected {
        input_ids: Vec<Vec<i64>>,
        positions: Vec<i64>,
        logits: Vec<Vec<Vec<f64>>>,
    }
    let _no_grad = no_grad_guard();
    for name in ["llama2", "llama3", "qwen2"] {
        let expected = std::fs::read_to_string(checkpoint(name).join("expected.json")).unwrap();
        let expected: Expected = serde_json::from_str(&expected).unwrap();
        let model = Llama::load(&checkpoint(name), Device::Cpu, Kind::Float, 0).unwrap();
        let hidden = model.forward(&Tensor::from_slice2(&expected.input_ids));
        let logits = hidden.index_select(1, &Tensor::from_slice(&expected.positions)).matmul(&model.lm_head().tr());
        let logits = Vec::<f64>::try_from(logits.to_kind(Kind::Double).reshape([-1])).unwrap();
        let expected: Vec<f64> = expected.logits.into_iter().flatten().flatten().collect();
        assert_eq!(logits.len(), expected.len());
        let worst = logits.iter().zip(&expected).map(|(a, b)| (a - b).abs()).fold(0.0, f64::max);
        assert!(worst < 1e-5, "{name}: {worst:e}");
    }
}

#[test]
fn newer_configurations_mean_the_same() {
    let world = World::new("llama3");
    let path = world.path("model/config.json");
    let mut config: Value = serde_json::from_slice(&fs::read(&path).unwrap()).unwrap();
    let load = || Llama::load(&world.path("model"), Device::Cpu, Kind::Float, 0).unwrap();
    let ids = Tensor::from_slice2(&[[3i64, 4, 5, 6, 7, 8, 9]]);
    let older = load().forward(&ids);
    let object = config.as_object_mut().unwrap();
    let mut rope = object.remove("rope_scaling").unwrap();
    rope["rope_theta"] = object.remove("rope_theta").unwrap();
    rope["type"] = rope["rope_type"].clone();
    object.insert("rope_parameters".into(), rope);
    fs::write(&path, config.to_string()).unwrap();
    assert!(load().forward(&ids).equal(&older));
}

#[test]
fn greedy_answers_are_the_likeliest_tokens() {
    let _no_grad = no_grad_guard();
    for name in ["llama2", "llama3", "qwen2"] {
        let model = Llama::load(&checkpoint(name), Device::Cpu, Kind::Float, 0).unwrap();
        let prompts: [&[u32]; 3] = [&[5, 6, 7, 8, 9, 10, 11], &[12], &[30, 31, 32]];
        // EOS is what the second prompt's answer would have in third place.
        let free = greedy(&model, &prompts, 39, 6, 2, Device::Cpu);
        let eos = free[1][2];
        let answers = greedy(&model, &prompts, eos, 6, 2, Device::Cpu);
        for (prompt, answer) in prompts.iter().zip(&answers) {
            let mut ids: Vec<i64> = prompt.iter().map(|&id| i64::from(id)).collect();
            let mut expected = vec![];
            while expected.len() < 6 {
                let hidden = model.forward(&Tensor::from_slice(&ids).unsqueeze(0));
                let next = hidden.select(1, -1).matmul(&model.lm_head().tr()).argmax(-1, false).int64_value(&[0]);
                if next == i64::from(eos) {
                    break;
                }
                ids.push(next);
                expected.push(next as u32);
            }
            assert_eq!(*answer, expected, "{name}");
        }
        assert_eq!(answers[1].len(), free[1].iter().position(|&id| id == eos).unwrap());
    }
}

#[test]
fn a_cache_changes_nothing() {
    let _no_grad = no_grad_guard();
    let model = Llama::load(&checkpoint("llama3"), Device::Cpu, Kind::Float, 0).unwrap();
    let ids = Tensor::from_slice2(&[[3i64, 4, 5, 6, 7], [8, 9, 10, 11, 12]]);
    let tokens = Tensor::ones([2, 5], (Kind::Bool, Device::Cpu));
    let mut cache = Cache::default();
    let first = model.forward_cached(&ids.narrow(1, 0, 3), &tokens.narrow(1, 0, 3), &mut cache);
    let rest = model.forward_cached(&ids.narrow(1, 3, 2), &tokens, &mut cache);
    assert!(Tensor::cat(&[first, rest], 1).allclose(&model.forward(&ids), 1e-5, 1e-5, false));
}

#[test]
fn adamw_steps_as_that_of_torch() {
    manual_seed(0);
    let vs = nn::VarStore::new(Device::Cpu);
    let theirs = vs.root().randn("x", &[5, 3], 0.0, 1.0);
    let ours = theirs.detach().copy().set_requires_grad(true);
    let mut their_optimizer = nn::AdamW { wd: 0.0, ..Default::default() }.build(&vs, 0.1).unwrap();
    let mut our_optimizer = AdamW::new(&[("x".to_owned(), ours.shallow_clone())].into());
    let target = Tensor::randn([5, 3], (Kind::Float, Device::Cpu));
    for step in 1..6 {
        let lr = 0.1 / f64::from(step);
        let loss = |x: &Tensor| ((x - &target) * f64::from(step)).square().sum(Kind::Float);
        their_optimizer.set_lr(lr);
        their_optimizer.backward_step(&loss(&theirs));
        our_optimizer.zero_grad();
        loss(&ours).backward();
        our_optimizer.step(lr, 1.0);
        assert!(ours.allclose(&theirs, 1e-6, 1e-7, false), "step {step}");
    }
}

/// A checkpoint with a tokenizer, and records in its words.
struct World {
    folder: TempDir,
}

impl World {
    fn new(name: &str) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let model = folder.path().join("model");
        fs::create_dir(&model).unwrap();
        for file in fs::read_dir(checkpoint(name)).unwrap() {
            let file = file.unwrap();
            fs::copy(file.path(), model.join(file.file_name())).unwrap();
        }
        let words = (3..40).map(|id| (format!("w{id}"), id));
        let special = [("[UNK]", 0), ("<s>", 1), ("</s>", 2)].map(|(token, id)| (token.to_owned(), id));
        let vocab = special.into_iter().chain(words).collect();
        let words = WordLevel::builder().vocab(vocab).unk_token("[UNK]".into()).build().unwrap();
        let mut tokenizer = Tokenizer::new(words);
        tokenizer.with_pre_tokenizer(Some(WhitespaceSplit));
        tokenizer.add_special_tokens([AddedToken::from("</s>", true)]).unwrap();
        tokenizer.save(model.join("tokenizer.json"), false).unwrap();
        let record = |n: usize| {
            let word = |k: usize| format!("w{}", 3 + (7 * n + 5 * k) % 37);
            let [a, b, c, d, e] = [0, 1, 2, 3, 4].map(word);
            serde_json::json!({
                "instruction": format!("{a} {b}"), "output": "",
                "original_output": format!("{c} {d} {e}"), "revised_output": format!("{c} {a} {e} {b}"),
            })
        };
        let lines = (0..10).map(|n| format!("{}\n", record(n)));
        fs::write(folder.path().join("pairs.jsonl"), lines.collect::<String>()).unwrap();
        Self { folder }
    }

    /// Changes the tensors of the checkpoint.
    fn change(&self, change: impl Fn(&str, Tensor) -> Tensor) {
        for shard in fs::read_dir(self.path("model")).unwrap() {
            let path = shard.unwrap().path();
            if path.extension().is_some_and(|extension| extension == "safetensors") {
                let tensors = Tensor::read_safetensors(&path).unwrap().into_iter();
                let tensors: Vec<_> = tensors.map(|(name, tensor)| (name.clone(), change(&name, tensor))).collect();
                Tensor::write_safetensors(&tensors, &path).unwrap();
            }
        }
    }

    fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    /// Arguments for a short run.
    fn args(&self, out: &str, more: &[&str]) -> Args {
        let path = |name: &str| self.path(name).display().to_string();
        let (model, pairs, out) = (path("model"), path("pairs.jsonl"), path(out));
        let fixed = ["finetune", "--model", &model, "--data", &pairs, "--out", &out, "--cpu", "--prompt", "plain"];
        let mut short = vec!["--steps=6", "--batch=3", "--micro-batch=2", "--lr=0.01", "--max-length=12"];
        short.retain(|default| {
            let (name, _) = default.split_once('=').unwrap();
            !more.iter().any(|given| given.split_once('=').is_some_and(|(given, _)| given == name))
        });
        Args::try_parse_from(fixed.iter().chain(&short).chain(more)).unwrap()
    }

    fn run(&self, out: &str, more: &[&str]) -> Result<bool> {
        run(self.args(out, more), &|| false)
    }

    fn error(&self, out: &str, more: &[&str]) -> String {
        format!("{:#}", self.run(out, more).unwrap_err())
    }

    fn bytes(&self, name: &str) -> Vec<u8> {
        fs::read(self.path(name)).unwrap()
    }

    /// The lines of a file of metrics, but for what the clock says.
    fn metrics(&self, name: &str) -> Vec<Value> {
        let text = fs::read_to_string(self.path(name)).unwrap();
        let lines = text.lines().map(|line| {
            let mut line: Value = serde_json::from_str(line).unwrap();
            line.as_object_mut().unwrap().remove("seconds").unwrap();
            line
        });
        lines.collect()
    }

    fn outcome(&self, name: &str) -> Value {
        let mut outcome: Value = serde_json::from_slice(&self.bytes(name)).unwrap();
        outcome.as_object_mut().unwrap().remove("seconds").unwrap();
        outcome
    }
}

#[test]
fn an_interrupted_run_goes_on_as_if_nothing_had_happened() {
    let world = World::new("llama3");
    let pairs = world.path("pairs.jsonl").display().to_string();
    let more = ["--eval", &pairs, "--eval-every", "2", "--answers", "4"];
    assert!(world.run("unbroken", &more).unwrap());
    let asked = Cell::new(0);
    let third = || {
        asked.set(asked.get() + 1);
        asked.get() == 3
    };
    assert!(!run(world.args("broken", &more), &third).unwrap());
    assert!(world.path("broken/checkpoint-3/model.safetensors").exists());
    // As if it had been killed two steps later.
    let mut log = world.bytes("broken/metrics.jsonl");
    log.extend_from_slice(b"{\"step\": 4, \"loss\"");
    fs::write(world.path("broken/metrics.jsonl"), log).unwrap();
    let broken = world.path("broken").display().to_string();
    assert!(run(Args::try_parse_from(["finetune", "--resume", &broken]).unwrap(), &|| false).unwrap());

    assert_eq!(world.metrics("broken/metrics.jsonl").len(), 6);
    assert_eq!(world.metrics("broken/metrics.jsonl"), world.metrics("unbroken/metrics.jsonl"));
    assert_eq!(world.outcome("broken/outcome.json"), world.outcome("unbroken/outcome.json"));
    let model = |run: &str| world.bytes(&format!("{run}/model/model.safetensors"));
    assert!(model("broken") == model("unbroken"));
    assert!(model("broken") != world.bytes("model/model.safetensors"));
    assert!(!world.path("broken/checkpoint-3").exists());
    // What was trained loads again, and is what the scores speak of.
    let trained = Llama::load(&world.path("broken/model"), Device::Cpu, Kind::Float, 0).unwrap();
    assert!(trained.parameters.values().all(|tensor| tensor.isfinite().all().int64_value(&[]) == 1));
    let outcome = world.outcome("broken/outcome.json");
    let losses: Vec<f64> = outcome["losses"].as_array().unwrap().iter().map(|loss| loss.as_f64().unwrap()).collect();
    assert!(losses[5] < losses[0], "{losses:?}");
    assert!(world.path("broken/report.html").exists());
    // A run that has ended is left as it is, and no other takes its place.
    assert!(run(Args::try_parse_from(["finetune", "--resume", &broken]).unwrap(), &|| false).unwrap());
    assert!(world.error("broken", &[]).contains("holds a run"));
}

#[test]
fn a_model_is_saved_in_the_kind_it_came_in() {
    let world = World::new("qwen2");
    world.change(|_, tensor| tensor.to_kind(Kind::BFloat16));
    let more = ["--bf16", "--freeze-below=1", "--save-every=2"];
    assert!(world.run("unbroken", &more).unwrap());
    assert!(!run(world.args("broken", &more), &|| true).unwrap());
    let broken = world.path("broken").display().to_string();
    assert!(run(Args::try_parse_from(["finetune", "--resume", &broken]).unwrap(), &|| false).unwrap());
    let model = |run: &str| world.bytes(&format!("{run}/model/model.safetensors"));
    assert!(model("broken") == model("unbroken"));
    let tensors = Tensor::read_safetensors(world.path("broken/model/model.safetensors")).unwrap();
    assert!(tensors.iter().all(|(_, tensor)| tensor.kind() == Kind::BFloat16));
}

#[test]
fn a_step_does_not_depend_on_how_many_passes_it_takes() {
    let world = World::new("qwen2");
    let losses = |out: &str, micro_batch: &str| -> Vec<f64> {
        assert!(world.run(out, &[micro_batch]).unwrap());
        let lines = world.metrics(&format!("{out}/metrics.jsonl"));
        lines.iter().flat_map(|line| [line["loss"].as_f64().unwrap(), line["grad_norm"].as_f64().unwrap()]).collect()
    };
    let (one, three) = (losses("one", "--micro-batch=1"), losses("three", "--micro-batch=3"));
    for (one, three) in one.iter().zip(&three) {
        assert!((one - three).abs() < 1e-3 * three.abs().max(1.0), "{one} {three}");
    }
    assert_eq!(one.len(), 12);
}

#[test]
fn methods_are_compared_from_the_same_start() {
    let world = World::new("qwen2");
    let pairs = world.path("pairs.jsonl").display().to_string();
    assert!(world.run("out", &["--eval", &pairs, "--compare", "--seeds", "2", "--steps=2"]).unwrap());
    let methods = ["figa", "sft", "no-penalty", "no-gate", "gamma1", "unlikelihood", "word", "phrase"];
    let mut models = vec![];
    for method in methods {
        for seed in [0, 1] {
            let outcome = world.outcome(&format!("out/{method}-{seed}/outcome.json"));
            let start = world.outcome("out/figa-0/outcome.json")["evaluations"][0].clone();
            assert_eq!(outcome["evaluations"][0], start, "{method}");
            assert_eq!(outcome["evaluations"].as_array().unwrap().len(), 2);
            assert!(world.path(&format!("out/{method}-{seed}/model/config.json")).exists());
            models.push(world.bytes(&format!("out/{method}-{seed}/model/model.safetensors")));
        }
    }
    let [figa, another_seed, sft] = &models[..3] else { unreachable!() };
    assert!(figa != another_seed && figa != sft);
    let report = String::from_utf8(world.bytes("out/report.html")).unwrap();
    assert!(methods.iter().all(|method| report.contains(method)));
    assert!(world.path("out/figures/p_added.svg").exists() && world.path("out/figures/p_added.png").exists());
}

#[test]
fn methods_weigh_tokens_differently() {
    let world = World::new("qwen2");
    let model = world.path("model");
    let config = Config::read(&model).unwrap();
    let pairs = Pairs::new(&model, &config, Some(Prompt::Plain), None, 20).unwrap();
    let record = SpaRecord::new("w3", "w4 w5 w6 w7 w8", "w9 w5 w6 w10 w8");
    for (method, expected) in [
        (Method::Figa, vec![vec![-0.5, 0.0, 0.0, -0.5, 0.0, 0.0], vec![1.0, 0.0, 0.0, 1.0, 0.0, 1.0]]),
        (Method::Sft, vec![vec![1.0; 6]]),
        (Method::NoPenalty, vec![vec![1.0, 0.0, 0.0, 1.0, 0.0, 1.0]]),
        (Method::Gamma1, vec![vec![-0.5, 0.0, 0.0, -0.5, 0.0, 0.0], vec![1.0; 6]]),
        (Method::Phrase, vec![vec![-0.5, -0.5, -0.5, -0.5, 0.0, 0.0], vec![1.0, 1.0, 1.0, 1.0, 0.0, 1.0]]),
    ] {
        let rows = pairs.rows(std::slice::from_ref(&record), Path::new("pairs.jsonl"), method).unwrap();
        let weights: Vec<Vec<f32>> = rows[0].iter().map(|row| row.weights()[1..].to_vec()).collect();
        assert_eq!(weights, expected, "{method:?}");
    }
    let (figa, unlikelihood) = (Method::Figa.loss(), Method::Unlikelihood.loss());
    assert!(
        figa.objective.gate.is_some()
            && Method::NoGate.loss().objective.gate.is_none()
            && Method::Sft.loss().objective.gate.is_none()
    );
    assert_eq!((figa.objective.penalty, unlikelihood.objective.penalty), (Penalty::Nll, Penalty::Unlikelihood));
}

#[test]
fn what_is_frozen_stays_and_bf16_learns() {
    let world = World::new("qwen2");
    assert!(world.run("out", &["--freeze-below", "1", "--bf16"]).unwrap());
    let tensors = |path: &str| Tensor::read_safetensors(world.path(path)).unwrap().into_iter();
    let mut learnt = tensors("out/model/model.safetensors").collect::<std::collections::HashMap<_, _>>();
    for (name, before) in tensors("model/model.safetensors") {
        let after = learnt.remove(&name).unwrap();
        assert_eq!(after.kind(), before.kind());
        let frozen = name.starts_with("model.layers.0.") || name == "model.embed_tokens.weight";
        let expected = if frozen { before.to_kind(Kind::BFloat16).to_kind(before.kind()) } else { before };
        assert_eq!(after.equal(&expected), frozen, "{name}");
    }
}

#[test]
fn a_profile_leaves_nothing_behind() {
    let world = World::new("qwen2");
    assert!(world.run("out", &["--profile"]).unwrap());
    assert!(!world.path("out").exists());
}

#[test]
fn a_loss_that_is_not_finite_stops_before_it_does_harm() {
    let world = World::new("llama2");
    // Token 36 stands in the fifth record alone.
    world.change(|name, tensor| {
        if name == "model.embed_tokens.weight" {
            let _ = tensor.select(0, 36).fill_(f64::NAN);
        }
        tensor
    });
    let error = world.error("out", &[]);
    assert!(error.contains("the loss is not a finite number, in record(s) 5 of "), "{error}");
    let steps = world.metrics("out/metrics.jsonl").len();
    assert!(
        error.contains(&format!("step {}:", steps + 1)) && error.contains(&format!("checkpoint-{steps}")),
        "{error}"
    );
    assert!(world.path(&format!("out/checkpoint-{steps}/optimizer.safetensors")).exists());
}

#[test]
fn errors_name_the_file_and_what_to_do() {
    let world = World::new("llama2");
    let model = world.path("model");
    let shard = model.join("model-00001-of-00004.safetensors");
    let whole = fs::read(&shard).unwrap();
    let config = fs::read_to_string(model.join("config.json")).unwrap();
    let says = |text: &str, more: &[&str]| {
        let error = world.error("out", more);
        assert!(error.contains(text) && !error.contains('\n'), "{text}: {error}");
    };

    fs::write(&shard, &whole[..whole.len() - 10]).unwrap();
    says("model-00001-of-00004.safetensors: missing, truncated or no safetensors", &[]);
    fs::remove_file(&shard).unwrap();
    says("model-00001-of-00004.safetensors: missing, truncated or no safetensors", &[]);
    let mut tensors = {
        fs::write(&shard, &whole).unwrap();
        Tensor::read_safetensors(&shard).unwrap()
    };
    let (name, tensor) = tensors.pop().unwrap();
    tensors.push((name.clone(), tensor.unsqueeze(0)));
    Tensor::write_safetensors(&tensors, &shard).unwrap();
    says(&format!("tensor {name} has shape [1, "), &[]);
    tensors.last_mut().unwrap().0 = "of_another_name".into();
    Tensor::write_safetensors(&tensors, &shard).unwrap();
    says(&format!("none of its safetensors files holds the tensor {name}"), &[]);
    fs::write(&shard, &whole).unwrap();

    for (from, to, text) in [
        ("\"llama\"", "\"mamba\"", "config.json: model_type is \"mamba\", expected llama or qwen2"),
        ("\"silu\"", "\"gelu\"", "config.json: hidden_act is \"gelu\""),
        (
            "\"vocab_size\": 40",
            "\"vocab_size\": 39",
            "tokenizer.json: has the token id 39, but the model's vocab_size is 39",
        ),
        ("\"linear\"", "\"yarn\"", "config.json: rope is of type \"yarn\", expected default, linear or llama3"),
        ("\"num_attention_heads\": 4", "\"num_attention_heads\": 0", "config.json: a size is 0"),
        ("{", "", "config.json: "),
    ] {
        assert!(config.contains(from), "{from}");
        fs::write(model.join("config.json"), config.replacen(from, to, 1)).unwrap();
        says(text, &[]);
    }
    fs::write(model.join("config.json"), &config).unwrap();

    let empty = world.path("empty.jsonl");
    fs::write(&empty, "").unwrap();
    says("empty.jsonl: there are no records", &["--eval", &empty.display().to_string()]);
    says("pairs.jsonl: record 1: the prompt has 2 tokens and max_length is 2", &["--max-length=2"]);
    says("--max-length 129: the model knows 128 positions", &["--max-length=129"]);
    says("--freeze-below 3: the model has 2 layers", &["--freeze-below=3"]);
    says("<nothing>", &["--eos", "<nothing>"]);
    says("--lr: expected a number > 0, got 0", &["--lr=0"]);
    says("--batch: expected at least 1", &["--batch=0"]);
    let nowhere = Args::try_parse_from(["finetune", "--resume", "nowhere"]).unwrap();
    assert!(format!("{:#}", run(nowhere, &|| false).unwrap_err()).contains("--resume: expected the folder of a run"));
}
