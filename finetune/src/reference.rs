//! The log-probabilities of all answers under the base model, which losses of pairs compare with: computed once, and kept in
//! the folder of the run.

use std::ops::Range;
use std::path::Path;

use anyhow::{Context, Result, ensure};
use figa_loss::Example;
use figa_loss::tch::Tensor;
use safetensors::tensor::{Dtype, TensorView, serialize};

use crate::decoder::Decoder;
use crate::loss::token_log_probs;
use crate::method::with_equal_weights;
use crate::ranks::Ranks;
use crate::rows::{Layout, Row};

/// The file in the folder of a run.
pub const FILE: &str = "reference.safetensors";

/// Its only tensor: a number for each token, 0 in prompts, row after row in the order of the records.
const TENSOR: &str = "log_probs";

/// Computes the log-probabilities of the rows of some pairs, `batch` pairs at a time.
pub fn compute(base: &Decoder, pairs: &mut [Vec<Row>], batch: usize, layout: Layout, pad_id: u32) -> Result<()> {
    for pairs in pairs.chunks_mut(batch) {
        let answers = |rows: &Vec<Row>| rows.iter().map(|row| with_equal_weights(&row.example)).collect();
        let groups: Vec<Vec<Example>> = pairs.iter().map(answers).collect();
        let log_probs = token_log_probs(base, &groups, layout, pad_id)?;
        for (row, log_probs) in pairs.iter_mut().flatten().zip(log_probs) {
            row.reference = log_probs;
        }
    }
    Ok(())
}

/// Gives all processes those of all pairs, of which each has computed a share.
pub fn join(pairs: &mut [Vec<Row>], share: Range<usize>, ranks: &Ranks) -> Result<()> {
    if ranks.count() == 1 {
        return Ok(());
    }
    for (place, pair) in pairs.iter_mut().enumerate() {
        if !share.contains(&place) {
            pair.iter_mut().for_each(|row| row.reference = vec![0.0; row.example.len()]);
        }
    }
    let numbers: Vec<f32> = pairs.iter().flatten().flat_map(|row| row.reference.iter().copied()).collect();
    let mut sums = Tensor::from_slice(&numbers);
    ranks.sum_tensor(&mut sums)?;
    set(pairs, &Vec::<f32>::try_from(sums)?);
    Ok(())
}

/// Writes those of all pairs to a file that is complete or absent.
pub fn write(path: &Path, pairs: &[Vec<Row>]) -> Result<()> {
    let numbers = pairs.iter().flatten().flat_map(|row| &row.reference);
    let bytes: Vec<u8> = numbers.flat_map(|number| number.to_le_bytes()).collect();
    let tensor = TensorView::new(Dtype::F32, vec![bytes.len() / size_of::<f32>()], &bytes)?;
    let content = serialize([(TENSOR, tensor)], &None)?;
    figa_atomic_file::write(path, content).with_context(|| format!("writing {}", path.display()))
}

/// Reads those of all pairs.
pub fn read(path: &Path, pairs: &mut [Vec<Row>]) -> Result<()> {
    let tensors = Tensor::read_safetensors(path).with_context(|| path.display().to_string())?;
    let numbers = tensors.iter().find(|(name, _)| name == TENSOR).map(|(_, tensor)| Vec::<f32>::try_from(tensor));
    let numbers = numbers.transpose()?.unwrap_or_default();
    let expected: usize = pairs.iter().flatten().map(|row| row.example.len()).sum();
    ensure!(
        numbers.len() == expected,
        "{}: holds {} log-probabilities, expected {expected}; remove it to compute them again",
        path.display(),
        numbers.len()
    );
    set(pairs, &numbers);
    Ok(())
}

fn set(pairs: &mut [Vec<Row>], mut numbers: &[f32]) {
    for row in pairs.iter_mut().flatten() {
        let (first, others) = numbers.split_at(row.example.len());
        (row.reference, numbers) = (first.to_vec(), others);
    }
}
