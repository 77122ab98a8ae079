//! The model and its generation, against `transformers` and against itself.

mod common;

use std::fs;

use common::{CHECKPOINTS, Sandbox, checkpoint, load};
use figa_finetune::generate::greedy;
use figa_finetune::llama::Cache;
use figa_loss::tch::{Device, Kind, Tensor, no_grad_guard};
use figa_loss::{Example, TokenLabel, packing_error};
use serde_json::Value;

#[test]
fn logits_equal_those_of_transformers() {
    #[derive(serde::Deserialize)]
    struct Expected {
        input_ids: Vec<Vec<i64>>,
        positions: Vec<i64>,
        logits: Vec<Vec<Vec<f64>>>,
    }
    let _no_grad = no_grad_guard();
    for name in CHECKPOINTS {
        let expected = fs::read_to_string(checkpoint(name).join("expected.json")).unwrap();
        let expected: Expected = serde_json::from_str(&expected).unwrap();
        let model = load(&checkpoint(name));
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
fn old_and_new_configurations_mean_the_same() {
    let sandbox = Sandbox::new("llama3");
    let path = sandbox.path("model/config.json");
    let mut config: Value = serde_json::from_slice(&fs::read(&path).unwrap()).unwrap();
    let ids = Tensor::from_slice2(&[[3i64, 4, 5, 6, 7, 8, 9]]);
    let old = load(&sandbox.path("model")).forward(&ids);
    let object = config.as_object_mut().unwrap();
    let mut rope = object.remove("rope_scaling").unwrap();
    rope["rope_theta"] = object.remove("rope_theta").unwrap();
    rope["type"] = rope["rope_type"].clone();
    object.insert("rope_parameters".into(), rope);
    fs::write(&path, config.to_string()).unwrap();
    assert!(load(&sandbox.path("model")).forward(&ids).equal(&old));
}

#[test]
fn packed_answers_have_the_hidden_states_of_rows_of_their_own() {
    let _no_grad = no_grad_guard();
    let row = |ids: &[u32]| {
        let labels = ids.iter().map(|&id| id.into()).collect();
        Example::new(ids.to_vec(), labels, vec![1.0; ids.len()], vec![TokenLabel::Kept; ids.len()]).unwrap()
    };
    let answers = [&[3, 4, 5, 6, 7, 8][..], &[3, 4, 9, 6, 10], &[3, 4, 9, 7, 5, 6], &[8, 7]].map(row);
    for name in CHECKPOINTS {
        let model = load(&checkpoint(name));
        let error =
            packing_error([&answers[..3], &answers[3..]], Device::Cpu, |inputs| Ok(model.forward_packed(inputs)));
        assert!(error.unwrap() < 1e-5, "{name}");
    }
}

#[test]
fn a_cache_does_not_change_the_hidden_states() {
    let _no_grad = no_grad_guard();
    let model = load(&checkpoint("llama3"));
    let ids = Tensor::from_slice2(&[[3i64, 4, 5, 6, 7], [8, 9, 10, 11, 12]]);
    let tokens = Tensor::ones([2, 5], (Kind::Bool, Device::Cpu));
    let mut cache = Cache::default();
    let first = model.forward_cached(&ids.narrow(1, 0, 3), &tokens.narrow(1, 0, 3), &mut cache);
    let rest = model.forward_cached(&ids.narrow(1, 3, 2), &tokens, &mut cache);
    assert!(Tensor::cat(&[first, rest], 1).allclose(&model.forward(&ids), 1e-5, 1e-5, false));
}

#[test]
fn greedy_answers_consist_of_the_most_likely_tokens() {
    let _no_grad = no_grad_guard();
    for name in CHECKPOINTS {
        let model = load(&checkpoint(name));
        let prompts: [&[u32]; 3] = [&[5, 6, 7, 8, 9, 10, 11], &[12], &[30, 31, 32]];
        // The third token of the second answer serves as EOS.
        let unlimited = greedy(&model, &prompts, &[39], 6, 2);
        let eos = unlimited[1][2];
        let answers = greedy(&model, &prompts, &[eos], 6, 2);
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
        assert_eq!(answers[1].len(), unlimited[1].iter().position(|&id| id == eos).unwrap());
    }
}
