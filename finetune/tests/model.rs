//! The model and its generation, against `transformers` and against itself.

mod common;

use std::collections::BTreeMap;
use std::fs;

use common::{CHECKPOINTS, Sandbox, checkpoint, load};
use figa_finetune::decoder::{Cache, Decoder, Load};
use figa_finetune::generate::{Limits, Prompt, Sampling, generate};
use figa_finetune::gradients::Gradients;
use figa_loss::tch::{Device, Kind, Tensor, no_grad_guard};
use figa_loss::{Example, Rows, TokenLabel, TokenLoss, WeightedNll, pack, packing_error};

/// What `transformers` computes, from `checkpoints.py`.
#[derive(serde::Deserialize)]
struct Expected {
    input_ids: Vec<Vec<i64>>,
    positions: Vec<i64>,
    /// At these positions.
    logits: Vec<Vec<Vec<f64>>>,
    /// At the last position of rows of `SHORT` tokens.
    short: Vec<Vec<f64>>,
    /// For each parameter, the norm of its gradient, and the product with `cos(0.7 i)`.
    gradients: BTreeMap<String, [f64; 2]>,
}

const SHORT: i64 = 12;

fn expected(name: &str) -> Expected {
    serde_json::from_str(&fs::read_to_string(checkpoint(name).join("expected.json")).unwrap()).unwrap()
}

fn numbers(tensor: &Tensor) -> Vec<f64> {
    Vec::try_from(tensor.to_kind(Kind::Double).contiguous().view([-1])).unwrap()
}

fn check(name: &str, ours: &[f64], theirs: &[f64], tolerance: f64) {
    assert_eq!(ours.len(), theirs.len(), "{name}");
    let worst = ours.iter().zip(theirs).map(|(a, b)| (a - b).abs()).fold(0.0, f64::max);
    assert!(worst < tolerance, "{name}: {worst:e}");
}

fn check_logits(name: &str, model: &Decoder) {
    let _no_grad = no_grad_guard();
    let expected = expected(name);
    let ids = Tensor::from_slice2(&expected.input_ids);
    let logits = |ids: &Tensor, positions: &[i64]| {
        let hidden = model.forward(ids).index_select(1, &Tensor::from_slice(positions));
        numbers(&model.head().logits(&hidden))
    };
    check(name, &logits(&ids, &expected.positions), &expected.logits.concat().concat(), 1e-5);
    check(name, &logits(&ids.narrow(1, 0, SHORT), &[SHORT - 1]), &expected.short.concat(), 1e-5);
}

#[test]
fn logits_equal_those_of_transformers() {
    for name in CHECKPOINTS {
        check_logits(name, &load(&checkpoint(name)));
    }
}

#[test]
fn configurations_of_older_versions_mean_the_same() {
    let mut found = 0;
    for name in CHECKPOINTS {
        let old = checkpoint(name).join("old_config.json");
        if old.exists() {
            let sandbox = Sandbox::new(name);
            fs::copy(old, sandbox.path("model/config.json")).unwrap();
            check_logits(name, &load(&sandbox.path("model")));
            found += 1;
        }
    }
    assert!(found > 10);
}

#[test]
fn gradients_equal_those_of_transformers() {
    for name in CHECKPOINTS {
        let (model, expected) = (load(&checkpoint(name)), expected(name));
        let ids = Tensor::from_slice2(&expected.input_ids);
        let len = ids.size()[1];
        let logits = model.head().logits(&model.forward(&ids)).narrow(1, 0, len - 1).flatten(0, 1);
        let mut gradients = Gradients::new(&model.parameters);
        gradients.add_all(&logits.cross_entropy_for_logits(&ids.narrow(1, 1, len - 1).flatten(0, 1)));
        assert_eq!(model.parameters.len(), expected.gradients.len(), "{name}");
        for (parameter, [norm, product]) in expected.gradients {
            let gradient = numbers(&gradients.take(&parameter).unwrap());
            let ours = gradient.iter().zip(0..).map(|(g, i)| g * (0.7 * f64::from(i)).cos()).sum();
            let our_norm = gradient.iter().map(|g| g * g).sum::<f64>().sqrt();
            check(&format!("{name} {parameter}"), &[our_norm, ours], &[norm, product], 1e-5 * norm.max(1e-2));
        }
    }
}

/// Some answers to two prompts, with weights.
fn answers() -> [Example; 4] {
    [&[3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14][..], &[3, 4, 9, 6, 10], &[3, 4, 9, 7, 5, 6, 3, 8, 9, 20, 3], &[8, 7]]
        .map(|ids| {
            let labels = ids.iter().map(|&id: &u32| id.into()).collect();
            let weights = ids.iter().map(|&id| if id % 3 == 0 { 0.0 } else { f32::from(id as u8) - 6.5 }).collect();
            Example::new(ids.to_vec(), labels, weights, vec![TokenLabel::Kept; ids.len()]).unwrap()
        })
}

#[test]
fn packed_answers_have_the_hidden_states_of_rows_of_their_own() {
    let _no_grad = no_grad_guard();
    let answers = answers();
    for name in CHECKPOINTS {
        let model = load(&checkpoint(name));
        let error =
            packing_error([&answers[..3], &answers[3..]], Device::Cpu, |batch| model.forward_packed(batch, None));
        assert!(error.unwrap() < 1e-5, "{name}");
    }
}

#[test]
fn all_ways_to_compute_a_gradient_agree() {
    let answers = answers();
    for name in CHECKPOINTS {
        for freeze_below in [0, 1] {
            let (device, kind) = (Device::Cpu, Kind::Float);
            let load = Load { device, kind, weights: kind, freeze_below };
            let model = Decoder::load(&checkpoint(name), load).unwrap();
            let gradients = |groups: &[&[Example]], way: Way| {
                let packed = pack(groups.iter().copied(), 0, Example::is_active);
                let mut batch = packed.to_tensors(device).unwrap();
                let mut gradients = Gradients::new(&model.parameters);
                let needed = batch.outputs.masked_select(&batch.outputs.ge(0)).unique_dim(0, true, false, false).0;
                if way != Way::Whole {
                    let place = batch.outputs.unsqueeze(1).eq_tensor(&needed).to_kind(Kind::Int64).argmax(1, false);
                    batch.outputs = place.where_self(&batch.outputs.ge(0), &batch.outputs);
                }
                let rows = Rows::of_targets(&batch.labels, &batch.weights, &batch.outputs, &batch.sequences, -100);
                let loss = |hidden: &Tensor| {
                    let head = model.head();
                    TokenLoss::of(WeightedNll::new()).on((hidden, head.lm_head()), rows.as_ref().unwrap()).unwrap().loss
                };
                match way {
                    Way::Whole => gradients.add_all(&loss(&model.forward_packed(&batch, None).unwrap())),
                    Way::Needed => gradients.add_all(&loss(&model.forward_packed(&batch, Some(&needed)).unwrap())),
                    Way::Recomputed => {
                        let states = model.forward_recomputed(&batch, Some(&needed)).unwrap();
                        let loss = loss(&states.hidden);
                        states.backward(&loss, &mut gradients);
                    }
                }
                gradients
            };
            let separate: Vec<&[Example]> = answers.chunks(1).collect();
            let mut truth = gradients(&separate, Way::Whole);
            let norm = truth.norm();
            let packed = [&answers[..3], &answers[3..]];
            let mut others = [Way::Whole, Way::Needed, Way::Recomputed].map(|way| gradients(&packed, way));
            for parameter in model.parameters.keys() {
                let Some(truth) = truth.take(parameter) else { continue };
                for (way, other) in others.iter_mut().enumerate() {
                    let error = f64::try_from((other.take(parameter).unwrap() - &truth).norm()).unwrap();
                    assert!(error < 1e-5 * norm, "{name} {parameter} {way}: {error:e} of {norm:e}");
                }
            }
        }
    }
}

/// Ways to compute a gradient.
#[derive(Clone, Copy, PartialEq)]
enum Way {
    /// All hidden states.
    Whole,
    /// Those that are needed.
    Needed,
    /// Those, with layers computed once more in the backward pass.
    Recomputed,
}

#[test]
fn a_cache_does_not_change_the_hidden_states() {
    let _no_grad = no_grad_guard();
    let (ids, len) = (Tensor::arange(32, (Kind::Int64, Device::Cpu)).view([2, 16]) + 3, 16);
    let tokens = Tensor::ones([2, len], (Kind::Bool, Device::Cpu));
    for name in CHECKPOINTS {
        let model = load(&checkpoint(name));
        let mut cache = Cache::default();
        let mut states = vec![model.forward_cached(&ids.narrow(1, 0, 3), &tokens.narrow(1, 0, 3), &mut cache)];
        for at in 3..len {
            states.push(model.forward_cached(&ids.narrow(1, at, 1), &tokens.narrow(1, 0, at + 1), &mut cache));
        }
        assert!(Tensor::cat(&states, 1).allclose(&model.forward(&ids), 1e-5, 1e-5, false), "{name}");
    }
}

#[test]
fn greedy_answers_consist_of_the_most_likely_tokens() {
    let _no_grad = no_grad_guard();
    for name in CHECKPOINTS {
        let model = load(&checkpoint(name));
        let prompts: [&[u32]; 3] = [&[5, 6, 7, 8, 9, 10, 11], &[12], &[30, 31, 32]];
        let answers = |stop_ids: &[u32]| {
            let prompts = prompts.map(|ids| Prompt { number: 0, ids });
            let limits = Limits { stop_ids, max_tokens: 6, batch: 2 };
            let answers = generate(&model, &prompts, limits, Sampling::GREEDY);
            assert!(answers.iter().all(|answer| answer.is_complete == (answer.ids.len() < 6)));
            answers.into_iter().map(|answer| answer.ids).collect::<Vec<_>>()
        };
        // The third token of the second answer serves as EOS.
        let unlimited = answers(&[]);
        let eos = unlimited[1][2];
        let answers = answers(&[eos]);
        for (prompt, answer) in prompts.iter().zip(&answers) {
            let mut ids: Vec<i64> = prompt.iter().map(|&id| i64::from(id)).collect();
            let mut expected = vec![];
            while expected.len() < 6 {
                let hidden = model.forward(&Tensor::from_slice(&ids).unsqueeze(0));
                let next = model.head().logits(&hidden.select(1, -1)).argmax(-1, false).int64_value(&[0]);
                if next == i64::from(eos) {
                    break;
                }
                ids.push(next);
                expected.push(next as u32);
            }
            assert_eq!(*answer, expected, "{name}");
        }
        assert_eq!(answers[1].len(), unlimited[1].iter().position(|&id| id == eos).unwrap());
    }
}
