//! Checkpoints: the model in a form that `transformers` loads, with the state that a resumed run needs.

use std::borrow::Cow;
use std::collections::{BTreeMap, HashMap};
use std::fs;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, ensure};
use figa_atomic_file::{name_of_partial, write_folder};
use figa_loss::tch::{Device, Kind, Tensor};
use safetensors::tensor::{Dtype, View, serialize_to_file};
use serde::{Deserialize, Serialize};

use crate::adamw::AdamW;
use crate::decoder::Decoder;
use crate::log::Log;
use crate::ranks::Ranks;
use crate::{inputs, json, reference};

/// The progress of a run. Data order and learning rate follow from the step, and nothing else is random.
#[derive(Default, Serialize, Deserialize)]
pub struct State {
    /// Steps taken.
    pub step: usize,
    /// Seconds spent on them.
    pub seconds: f64,
}

const OPTIMIZER_FILE: &str = "optimizer.safetensors";
const STATE_FILE: &str = "state.json";
const FOLDER_PREFIX: &str = "checkpoint-";

/// What a run writes to its folder, besides checkpoints.
const OURS: [&str; 8] = [
    "run.json",
    inputs::FILE,
    reference::FILE,
    "metrics.jsonl",
    "model",
    "outcome.json",
    "baseline.json",
    "report.html",
];

/// The files of a model's folder, besides the tensors, that are copied if they exist.
const COMPANIONS: [&str; 6] = [
    "config.json",
    "generation_config.json",
    "tokenizer.json",
    "tokenizer_config.json",
    "special_tokens_map.json",
    "chat_template.jinja",
];

/// What a checkpoint of a run holds.
pub struct Checkpoint<'a> {
    pub model: &'a Decoder,
    pub optimizer: &'a AdamW<'a>,
    pub state: &'a State,
    pub log: &'a Log,
}

impl Checkpoint<'_> {
    /// Writes it, in the first of the processes, and returns its folder. `base` is the folder of the base model.
    pub fn save(&self, run: &Path, base: &Path, ranks: &Ranks) -> Result<PathBuf> {
        let folder = run.join(format!("{FOLDER_PREFIX}{}", self.state.step));
        // All processes have a part of the moments.
        let moments = self.optimizer.state()?;
        ranks.from_first(|| {
            let fill = |folder: &Path| {
                // In the dtypes of training: a conversion would change the numbers of a resumed run.
                write_model(folder, base, self.model, |_, tensor| tensor.shallow_clone())?;
                write_tensors(&folder.join(OPTIMIZER_FILE), moments)?;
                self.log.save(folder)?;
                json::write(&folder.join(STATE_FILE), self.state)
            };
            write_folder(&folder, fill).with_context(|| format!("writing {}", folder.display()))
        })?;
        Ok(folder)
    }
}

/// Writes a model in Hugging Face layout, each parameter in the given dtype. `base` is the folder of the base model.
pub fn save_model(folder: &Path, base: &Path, model: &Decoder, kinds: &BTreeMap<String, Kind>) -> Result<()> {
    let convert = |name: &str, tensor: &Tensor| tensor.to_kind(kinds.get(name).copied().unwrap_or(tensor.kind()));
    write_folder(folder, |folder| write_model(folder, base, model, convert))
        .with_context(|| format!("writing {}", folder.display()))
}

/// The latest checkpoint of a run.
pub fn latest(run: &Path) -> Result<Option<(PathBuf, State)>> {
    let Some((_, folder)) = checkpoints(run)?.into_iter().max() else { return Ok(None) };
    let state = json::read(&folder.join(STATE_FILE))?;
    Ok(Some((folder, state)))
}

/// Restores the optimizer from a checkpoint.
pub fn restore(folder: &Path, optimizer: &mut AdamW, state: &State) -> Result<()> {
    let path = folder.join(OPTIMIZER_FILE);
    let tensors = Tensor::read_safetensors(&path).with_context(|| path.display().to_string())?;
    optimizer.restore(tensors, state.step as i32).with_context(|| path.display().to_string())
}

/// Removes all checkpoints of a run except the one in the folder `keep`.
pub fn remove_others(run: &Path, keep: Option<&Path>) -> Result<()> {
    for (_, folder) in checkpoints(run)? {
        if Some(&*folder) != keep {
            fs::remove_dir_all(&folder).with_context(|| format!("removing {}", folder.display()))?;
        }
    }
    Ok(())
}

/// The checkpoints of a run, each with its step.
fn checkpoints(run: &Path) -> Result<Vec<(usize, PathBuf)>> {
    let mut found = vec![];
    for entry in fs::read_dir(run).with_context(|| run.display().to_string())? {
        let path = entry?.path();
        let name = path.file_name().and_then(|name| name.to_str());
        if let Some(step) = name.and_then(|name| name.strip_prefix(FOLDER_PREFIX)?.parse().ok()) {
            found.push((step, path));
        }
    }
    Ok(found)
}

/// Removes what killed processes have not completed in the folder of a run.
pub fn remove_partial(run: &Path) -> Result<()> {
    for entry in fs::read_dir(run).with_context(|| run.display().to_string())? {
        let path = entry?.path();
        let name = path.file_name().unwrap_or_default().to_string_lossy();
        let Some(name) = name_of_partial(&name) else { continue };
        if OURS.contains(&name) || name.starts_with(FOLDER_PREFIX) {
            let removed = if path.is_dir() { fs::remove_dir_all(&path) } else { fs::remove_file(&path) };
            removed.with_context(|| format!("removing {}", path.display()))?;
        }
    }
    Ok(())
}

/// Checks that the disk has room for two checkpoints: the old one is removed after the new one is complete.
pub fn check_free_space(run: &Path, model: &Decoder) -> Result<()> {
    let moments = |tensor: &Tensor| if tensor.requires_grad() { 2 } else { 0 };
    let bytes = |tensor: &Tensor| tensor.numel() * tensor.kind().elt_size_in_bytes() * (1 + moments(tensor));
    let need = 2 * model.parameters.values().map(bytes).sum::<usize>() as u64;
    let free = fs4::available_space(run).with_context(|| run.display().to_string())?;
    let [need, free] = [need, free].map(|bytes| bytes >> 20);
    ensure!(
        need <= free,
        "--out: two checkpoints need {need} MiB, but {} has only {free} MiB free; free some space or use another disk",
        run.display()
    );
    Ok(())
}

fn write_model(folder: &Path, base: &Path, model: &Decoder, convert: impl Fn(&str, &Tensor) -> Tensor) -> Result<()> {
    let tensors = model.parameters.iter().map(|(name, tensor)| (name.clone(), convert(name, tensor)));
    write_tensors(&folder.join("model.safetensors"), tensors.collect())?;
    for file in COMPANIONS.map(|name| base.join(name)).iter().filter(|file| file.exists()) {
        let name = file.file_name().expect("joined above");
        fs::copy(file, folder.join(name)).with_context(|| file.display().to_string())?;
    }
    Ok(())
}

fn write_tensors(path: &Path, tensors: Vec<(String, Tensor)>) -> Result<()> {
    let tensors = tensors.into_iter().map(|(name, tensor)| {
        let shape = tensor.size().into_iter().map(|size| size as usize).collect();
        (name, TensorView { tensor, shape })
    });
    // `transformers` requires this entry.
    let metadata = HashMap::from([("format".to_owned(), "pt".to_owned())]);
    serialize_to_file(tensors.collect::<Vec<_>>(), &Some(metadata), path).with_context(|| path.display().to_string())
}

/// A tensor whose bytes are copied only when they are written.
struct TensorView {
    tensor: Tensor,
    shape: Vec<usize>,
}

impl View for TensorView {
    fn dtype(&self) -> Dtype {
        match self.tensor.kind() {
            Kind::Half => Dtype::F16,
            Kind::BFloat16 => Dtype::BF16,
            Kind::Double => Dtype::F64,
            _ => Dtype::F32, // Loading a model rejects all other dtypes.
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
