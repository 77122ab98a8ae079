//! Checkpoints: the model as `transformers` loads it, and what it takes to go on.

use std::borrow::Cow;
use std::collections::HashMap;
use std::fs;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, ensure};
use figa_loss::tch::{Device, Kind, Tensor};
use safetensors::tensor::{Dtype, View, serialize_to_file};
use serde::{Deserialize, Serialize};

use super::adamw::AdamW;
use super::aside;
use super::llama::{Llama, read_json};

/// What says how far training has come, beside model and optimizer. Data order and learning rate follow from the step,
/// and nothing else is random.
#[derive(Serialize, Deserialize)]
pub struct State {
    /// Steps taken.
    pub step: usize,
    /// Seconds spent on them.
    pub seconds: f64,
}

/// The files of a model's folder that are no tensors, where they exist.
const COMPANIONS: [&str; 6] = [
    "config.json",
    "generation_config.json",
    "tokenizer.json",
    "tokenizer_config.json",
    "special_tokens_map.json",
    "chat_template.jinja",
];

/// Writes `folder` as a checkpoint in Hugging Face layout, with what it takes to go on.
pub fn save(folder: &Path, source: &Path, model: &Llama, optimizer: &AdamW, state: &State) -> Result<()> {
    aside::folder(folder, |folder| {
        // What learns, learns in f32: any other kind would not go on bit for bit.
        write_model(folder, source, model, None)?;
        write_tensors(&folder.join("optimizer.safetensors"), optimizer.state())?;
        aside::json(&folder.join("state.json"), state)
    })
}

/// Writes `folder` as a model in Hugging Face layout and in the given kind.
pub fn save_model(folder: &Path, source: &Path, model: &Llama, kind: Kind) -> Result<()> {
    aside::folder(folder, |folder| write_model(folder, source, model, Some(kind)))
}

/// The newest checkpoint of a run.
pub fn latest(run: &Path) -> Result<Option<(PathBuf, State)>> {
    let Some((_, folder)) = checkpoints(run)?.into_iter().max() else { return Ok(None) };
    let state = read_json(&folder.join("state.json"))?;
    Ok(Some((folder, state)))
}

/// Goes on from a checkpoint's optimizer.
pub fn restore(folder: &Path, optimizer: &mut AdamW, state: &State) -> Result<()> {
    let path = folder.join("optimizer.safetensors");
    let tensors = Tensor::read_safetensors(&path).with_context(|| path.display().to_string())?;
    optimizer.restore(tensors, state.step as i32).with_context(|| path.display().to_string())
}

/// Removes the checkpoints of a run but for that of a step.
pub fn remove_but(run: &Path, keep: Option<usize>) -> Result<()> {
    for (step, folder) in checkpoints(run)? {
        if Some(step) != keep {
            fs::remove_dir_all(&folder).with_context(|| folder.display().to_string())?;
        }
    }
    Ok(())
}

pub fn path(run: &Path, step: usize) -> PathBuf {
    run.join(format!("checkpoint-{step}"))
}

fn checkpoints(run: &Path) -> Result<Vec<(usize, PathBuf)>> {
    let mut found = vec![];
    for entry in fs::read_dir(run).with_context(|| run.display().to_string())? {
        let path = entry?.path();
        let name = path.file_name().and_then(|name| name.to_str());
        if let Some(step) = name.and_then(|name| name.strip_prefix("checkpoint-")?.parse().ok()) {
            found.push((step, path));
        }
    }
    Ok(found)
}

/// Whether the disk has room for what a run writes at most: a checkpoint beside the one before.
pub fn check_room(run: &Path, model: &Llama) -> Result<()> {
    let moments = |tensor: &Tensor| if tensor.requires_grad() { 2 } else { 0 };
    let bytes = |tensor: &Tensor| tensor.numel() * tensor.kind().elt_size_in_bytes() * (1 + moments(tensor));
    let need = 2 * model.parameters.values().map(bytes).sum::<usize>() as u64;
    let free = fs4::available_space(run).with_context(|| run.display().to_string())?;
    let [need, free] = [need, free].map(|bytes| bytes >> 20);
    ensure!(
        need <= free,
        "--out: two checkpoints take {need} MiB, but the disk of {} has {free} MiB left",
        run.display()
    );
    Ok(())
}

fn write_model(folder: &Path, source: &Path, model: &Llama, kind: Option<Kind>) -> Result<()> {
    let parameters = model.parameters.iter();
    let tensors = parameters.map(|(name, tensor)| (name.clone(), tensor.to_kind(kind.unwrap_or(tensor.kind()))));
    write_tensors(&folder.join("model.safetensors"), tensors.collect())?;
    for name in COMPANIONS.iter().filter(|name| source.join(name).exists()) {
        fs::copy(source.join(name), folder.join(name)).with_context(|| source.join(name).display().to_string())?;
    }
    Ok(())
}

fn write_tensors(path: &Path, tensors: Vec<(String, Tensor)>) -> Result<()> {
    let tensors = tensors.into_iter().map(|(name, tensor)| {
        let shape = tensor.size().into_iter().map(|size| size as usize).collect();
        (name, Bytes { tensor, shape })
    });
    // `transformers` asks for it.
    let metadata = HashMap::from([("format".to_owned(), "pt".to_owned())]);
    serialize_to_file(tensors.collect::<Vec<_>>(), &Some(metadata), path).with_context(|| path.display().to_string())
}

/// A tensor whose bytes are copied only when they are written.
struct Bytes {
    tensor: Tensor,
    shape: Vec<usize>,
}

impl View for Bytes {
    fn dtype(&self) -> Dtype {
        match self.tensor.kind() {
            Kind::Half => Dtype::F16,
            Kind::BFloat16 => Dtype::BF16,
            Kind::Double => Dtype::F64,
            _ => Dtype::F32, // all others are refused when a model is loaded
        }
    }

    fn shape(&self) -> &[usize] {
        &self.shape
    }

    fn data(&self) -> Cow<'_, [u8]> {
        let tensor = self.tensor.detach().to_device(Device::Cpu).contiguous();
        let mut bytes = vec![0; self.data_len()];
        tensor.copy_data_u8(&mut bytes, tensor.numel());
        bytes.into()
    }

    fn data_len(&self) -> usize {
        self.tensor.numel() * self.tensor.kind().elt_size_in_bytes()
    }
}
