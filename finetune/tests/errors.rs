//! Error messages: one line that names the argument or file, what was expected, and what to do.

mod common;

use std::fs;

use clap::Parser;
use common::{Sandbox, never};
use figa_finetune::{Args, run};
use figa_loss::tch::Tensor;

/// The texts of other libraries and of the operating system.
const FILTERS: [(&str, &str); 2] =
    [(r": safetensors error .*", ": [reason]"), (r": [^:]*\(os error \d+\)", ": [reason]")];

fn assert_errors(name: &str, errors: &[String]) {
    insta::with_settings!({ filters => FILTERS }, { insta::assert_snapshot!(name, errors.join("\n")) });
}

#[test]
fn a_loss_that_is_not_finite_stops_the_run_before_the_step() {
    let sandbox = Sandbox::new("llama2");
    // Token 36 occurs only in the fifth record.
    sandbox.change_tensors(|name, tensor| {
        if name == "model.embed_tokens.weight" {
            let _ = tensor.select(0, 36).fill_(f64::NAN);
        }
        tensor
    });
    let error = sandbox.error("out", &[]);
    let steps = sandbox.metrics("out/metrics.jsonl").len();
    let expected = format!(
        "step {}: the loss is not finite; check record(s) 5 of [folder]/pairs.jsonl, or lower --lr; the model before \
         this step is in [folder]/out/checkpoint-{steps}",
        steps + 1
    );
    assert_eq!(error, expected);
    assert!(sandbox.path(&format!("out/checkpoint-{steps}/optimizer.safetensors")).exists());
}

#[test]
fn errors_of_tensors_name_the_file() {
    let sandbox = Sandbox::new("llama2");
    let shard = sandbox.path("model/model-00001-of-00004.safetensors");
    let whole = fs::read(&shard).unwrap();
    let mut errors = vec![];

    fs::write(&shard, &whole[..whole.len() - 10]).unwrap();
    errors.push(sandbox.error("out", &[]));
    fs::remove_file(&shard).unwrap();
    errors.push(sandbox.error("out", &[]));

    fs::write(&shard, &whole).unwrap();
    let mut tensors = Tensor::read_safetensors(&shard).unwrap();
    tensors.sort_by(|(a, _), (b, _)| a.cmp(b));
    let (name, tensor) = tensors.pop().unwrap();
    tensors.push((name, tensor.unsqueeze(0)));
    Tensor::write_safetensors(&tensors, &shard).unwrap();
    errors.push(sandbox.error("out", &[]));
    tensors.last_mut().unwrap().0 = "another_name".into();
    Tensor::write_safetensors(&tensors, &shard).unwrap();
    errors.push(sandbox.error("out", &[]));
    // A dtype of the same length that the library does not know.
    let at = whole.windows(5).position(|bytes| bytes == b"\"F32\"").unwrap();
    fs::write(&shard, [&whole[..at], b"\"F8_\"", &whole[at + 5..]].concat()).unwrap();
    errors.push(sandbox.error("out", &[]));
    fs::write(&shard, &whole).unwrap();

    let index = sandbox.path("model/model.safetensors.index.json");
    let names = fs::read_to_string(&index).unwrap();
    for name in ["../model-00001-of-00004.safetensors", "/model-00001-of-00004.safetensors"] {
        fs::write(&index, names.replace("model-00001-of-00004.safetensors", name)).unwrap();
        errors.push(sandbox.error("out", &[]));
    }
    assert_errors("tensors", &errors);
}

/// The errors for copies of a checkpoint's configuration in which one text is another.
fn configuration_errors<const N: usize>(checkpoint: &str, changes: [(&str, &str); N]) -> [String; N] {
    let sandbox = Sandbox::new(checkpoint);
    let path = sandbox.path("model/config.json");
    let config = fs::read_to_string(&path).unwrap();
    changes.map(|(from, to)| {
        assert!(config.contains(from), "{from}");
        fs::write(&path, config.replacen(from, to, 1)).unwrap();
        sandbox.error("out", &[])
    })
}

#[test]
fn errors_of_a_configuration_name_the_field() {
    let errors = configuration_errors(
        "llama2",
        [
            ("\"llama\"", "\"mamba\""),
            ("\"llama\"", "\"mixtral\", \"num_local_experts\": 8"),
            ("\"llama\"", "\"gemma3\", \"text_config\": {}"),
            ("\"silu\"", "\"gelu\""),
            ("\"vocab_size\": 40", "\"vocab_size\": 39"),
            ("\"linear\"", "\"proportional\""),
            ("\"linear\"", "\"llama3\""),
            ("\"linear\"", "\"longrope\""),
            ("\"rope_type\"", "\"partial_rotary_factor\": 0.5, \"rope_type\""),
            ("\"num_attention_heads\": 4", "\"num_attention_heads\": 0"),
            ("\"num_attention_heads\": 4", "\"num_attention_heads\": -4"),
            ("\"num_hidden_layers\": 2", "\"num_hidden_layers\": 1152921504606846976"),
            ("\"head_dim\": 4", "\"head_dim\": 1152921504606846976"),
            ("\"head_dim\": 4,\n  \"hidden_act\": \"silu\",\n  \"hidden_size\": 16", "\"hidden_size\": 18"),
            ("\"vocab_size\": 40", "\"vocab_size\": 1e300"),
            ("\"rope_theta\": 10000.0", "\"rope_theta\": 0"),
            ("{", "{\"quantization_config\": {\"quant_method\": \"fp8\"},"),
            ("{", ""),
        ],
    );
    assert_errors("configuration", &errors);
}

#[test]
fn errors_of_layers_name_the_field() {
    let mut errors = vec![];
    errors.extend(configuration_errors(
        "gemma2",
        [
            ("\"full_attention\"", "\"chunked_attention\""),
            ("\"full_attention\",", ""),
            ("\"sliding_window\": 7", "\"sliding_window\": 0"),
            ("\"final_logit_softcapping\": 3.0", "\"final_logit_softcapping\": -3"),
            ("\"use_bidirectional_attention\": null", "\"use_bidirectional_attention\": true"),
        ],
    ));
    errors.extend(configuration_errors(
        "smollm3",
        [
            ("\"no_rope_layers\": [", "\"no_rope_layers\": [1,"),
            ("\"no_rope_layer_interval\": 2,\n  \"no_rope_layers\": [", "\"no_rope_layer_interval\": 0, \"x\": ["),
        ],
    ));
    errors.extend(configuration_errors("gemma3", [("\"query_pre_attn_scalar\": 12", "\"query_pre_attn_scalar\": 0")]));
    errors.extend(configuration_errors("granite", [("\"logits_scaling\":", "\"logits_scaling\": 0, \"x\":")]));
    errors.extend(configuration_errors("phi3-longrope", [("\"short_factor\": [", "\"short_factor\": [1.5,")]));
    assert_errors("layers", &errors);
}

#[test]
fn errors_of_arguments_name_the_argument() {
    let sandbox = Sandbox::new("llama2");
    fs::write(sandbox.path("empty.jsonl"), "").unwrap();
    let empty = sandbox.text_path("empty.jsonl");
    let mut errors: Vec<String> = [
        &["--eval", &empty][..],
        &["--max-length=2"],
        &["--max-length=129"],
        &["--freeze-below=3"],
        &["--eos", "<nothing>"],
        &["--lr=0"],
        &["--batch=0"],
        &["--prompt=chat"],
    ]
    .map(|arguments| sandbox.error("out", arguments))
    .into();
    let nowhere = Args::try_parse_from(["finetune", "--resume", "nowhere"]).unwrap();
    errors.push(format!("{:#}", run(nowhere, &never).unwrap_err()));
    assert_errors("arguments", &errors);
}
