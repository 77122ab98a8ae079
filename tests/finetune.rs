//! The parts of the example `finetune`.
#![cfg(all(feature = "torch", feature = "data"))]

#[allow(dead_code)] // The example uses all of it.
#[path = "../examples/finetune/llama.rs"]
mod llama;

use std::path::{Path, PathBuf};

use figa_loss::tch::{Device, Kind, Tensor, no_grad_guard};
use llama::Llama;

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
        let model = Llama::load(&checkpoint(name), Device::Cpu, Kind::Float).unwrap();
        let hidden = model.forward(&Tensor::from_slice2(&expected.input_ids));
        let logits = hidden.index_select(1, &Tensor::from_slice(&expected.positions)).matmul(&model.lm_head().tr());
        let logits = Vec::<f64>::try_from(logits.to_kind(Kind::Double).reshape([-1])).unwrap();
        let expected: Vec<f64> = expected.logits.into_iter().flatten().flatten().collect();
        assert_eq!(logits.len(), expected.len());
        let worst = logits.iter().zip(&expected).map(|(a, b)| (a - b).abs()).fold(0.0, f64::max);
        assert!(worst < 1e-5, "{name}: {worst:e}");
    }
}
