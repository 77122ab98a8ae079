//! Where the time of a step goes, and what the fused loss saves in time and memory.

use std::fs;

use anyhow::Result;

use crate::adamw::AdamW;
use crate::clock::Seconds;
use crate::experiment::Experiment;
use crate::llama::Llama;
use crate::loss::Logits;
use crate::method::{Base, Method};
use crate::rows::Row;
use crate::{reference, schedule};

/// Timed steps of each kind. One more comes first and is not timed.
const ROUNDS: usize = 5;

/// The measurements of one way to compute the loss.
#[derive(Default)]
struct Measurements {
    steps: Vec<Seconds>,
    /// Bytes on top of the model and the optimizer; `None` if the system does not report it.
    peak: Option<u64>,
}

/// Takes the same steps with the fused loss and with the dense one, in turn. Returns a table of the median times and
/// the peak memory. The learning rate is 0, so the model does not change.
pub fn profile(experiment: &Experiment, model: &Llama, method: Method) -> Result<String> {
    let args = experiment.args;
    let mut optimizer = AdamW::new(&model.parameters);
    let mut rows = experiment.encoder.rows(&experiment.data, method)?;
    let batches: Vec<Vec<usize>> =
        (0..=ROUNDS).map(|round| schedule::batch(args.seed, rows.len(), round, args.batch)).collect();
    if method.base == Base::LogProbs {
        for &pair in batches.iter().flatten() {
            reference::compute(model, &mut rows[pair..=pair], 1, experiment.encoder.eos_id())?;
        }
    }
    let mut accumulator = experiment.accumulator(method)?;
    let (mut fused, mut dense) = (Measurements::default(), Measurements::default());
    for (round, batch) in batches.into_iter().enumerate() {
        let pairs: Vec<&[Row]> = batch.into_iter().map(|pair| &rows[pair][..]).collect();
        for (logits, measurements) in [(Logits::Fused, &mut fused), (Logits::Dense, &mut dense)] {
            let memory = Memory::reset();
            accumulator.logits = logits;
            let mut gradient = accumulator.gradient(model, &mut optimizer, &pairs)?;
            if gradient.not_finite().is_some() {
                continue;
            }
            gradient.apply(&mut optimizer, 0.0);
            if round > 0 {
                measurements.steps.push(gradient.seconds);
                measurements.peak = measurements.peak.max(memory.and_then(|memory| memory.growth()));
            }
        }
    }
    Ok(table(&fused, &dense))
}

type Part = fn(&Seconds) -> f64;

fn table(fused: &Measurements, dense: &Measurements) -> String {
    let parts: [(&str, Part); 5] = [
        ("model forward", |seconds| seconds.forward),
        ("head and loss", |seconds| seconds.loss),
        ("backward", |seconds| seconds.backward),
        ("optimizer", |seconds| seconds.optimizer),
        ("total", Seconds::total),
    ];
    let mut table = format!("{:<16}{:>10}{:>10}\n", "seconds per step", "fused", "dense");
    for (name, part) in parts {
        let [fused, dense] = [fused, dense].map(|run| median(run.steps.iter().map(part).collect()));
        table += &format!("{name:<16}{fused:>10.3}{dense:>10.3}\n");
    }
    if let (Some(fused), Some(dense)) = (fused.peak, dense.peak) {
        table += &format!("{:<16}{:>6} MiB{:>6} MiB\n", "peak memory", fused >> 20, dense >> 20);
    }
    table
}

fn median(mut values: Vec<f64>) -> f64 {
    values.sort_by(f64::total_cmp);
    values.get(values.len() / 2).copied().unwrap_or(f64::NAN)
}

/// The memory of this process, on Linux only. That of a GPU is not included.
struct Memory {
    start: u64,
}

impl Memory {
    /// Returns free memory to the system, which would hide the growth of the next step, and resets the peak.
    fn reset() -> Option<Self> {
        #[cfg(all(target_os = "linux", target_env = "gnu"))]
        // SAFETY: `malloc_trim` has no preconditions.
        unsafe {
            libc::malloc_trim(0);
        }
        // 5 resets the peak, see proc_pid_clear_refs(5).
        fs::write("/proc/self/clear_refs", "5").ok()?;
        Some(Self { start: status_bytes("VmRSS:")? })
    }

    /// The peak since the reset, minus the memory in use then.
    fn growth(&self) -> Option<u64> {
        Some(status_bytes("VmHWM:")?.saturating_sub(self.start))
    }
}

/// A field of `/proc/self/status`, which is in KiB.
fn status_bytes(field: &str) -> Option<u64> {
    let status = fs::read_to_string("/proc/self/status").ok()?;
    let line = status.lines().find_map(|line| line.strip_prefix(field))?;
    Some(line.split_whitespace().next()?.parse::<u64>().ok()? << 10)
}
