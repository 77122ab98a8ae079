//! Where the time of a step goes, and what packed rows and the fused loss save in time and memory.

use std::fs;

use anyhow::Result;

use crate::adamw::AdamW;
use crate::clock::Seconds;
use crate::decoder::Decoder;
use crate::experiment::Experiment;
use crate::loss::Logits;
use crate::method::{Base, Method};
use crate::rows::{Layout, Row};
use crate::{reference, schedule};

/// Timed steps of each kind. One more comes first and is not timed.
const ROUNDS: usize = 5;

/// The ways to take a step.
const WAYS: [(&str, Layout, Logits); 3] = [
    ("packed", Layout::Packed, Logits::Fused),
    ("separate", Layout::Separate, Logits::Fused),
    ("dense", Layout::Separate, Logits::Dense),
];

/// The measurements of one way.
#[derive(Default)]
struct Measurements {
    steps: Vec<Seconds>,
    /// Of all steps.
    computed: usize,
    /// Bytes on top of the model and the optimizer; `None` if the system does not report it.
    peak: Option<u64>,
}

/// Takes the same steps in all ways, in turn: packed rows, separate rows, and separate rows with a dense loss. Returns a table of
/// the median times, the mean number of tokens and the peak memory. The learning rate is 0, so the model does not change.
pub fn profile(experiment: &Experiment, model: &Decoder, method: Method) -> Result<String> {
    let args = experiment.args;
    let mut optimizer = AdamW::new(&model.parameters);
    let mut rows = experiment.encoder.rows(&experiment.data, method)?;
    let batches: Vec<Vec<usize>> =
        (0..=ROUNDS).map(|round| schedule::batch(args.seed, rows.len(), round, args.batch)).collect();
    if method.base == Base::LogProbs {
        for &pair in batches.iter().flatten() {
            reference::compute(model, &mut rows[pair..=pair], 1, args.rows.layout(), experiment.encoder.eos_id())?;
        }
    }
    let mut accumulator = experiment.accumulator(method)?;
    let mut ways: [Measurements; WAYS.len()] = Default::default();
    for (round, batch) in batches.into_iter().enumerate() {
        let pairs: Vec<&[Row]> = batch.into_iter().map(|pair| &rows[pair][..]).collect();
        for ((_, layout, logits), way) in WAYS.into_iter().zip(&mut ways) {
            let memory = Memory::reset();
            (accumulator.layout, accumulator.logits) = (layout, logits);
            let mut gradient = accumulator.gradient(model, &pairs)?;
            if gradient.not_finite().is_some() {
                continue;
            }
            gradient.apply(&mut optimizer, 0.0)?;
            if round > 0 {
                way.steps.push(gradient.seconds);
                way.computed += gradient.computed;
                way.peak = way.peak.max(memory.and_then(|memory| memory.growth()));
            }
        }
    }
    Ok(table(&ways))
}

type Part = fn(&Seconds) -> f64;

fn table(ways: &[Measurements]) -> String {
    let parts: [(&str, Part); 5] = [
        ("model forward", |seconds| seconds.forward),
        ("head and loss", |seconds| seconds.loss),
        ("backward", |seconds| seconds.backward),
        ("optimizer", |seconds| seconds.optimizer),
        ("total", Seconds::total),
    ];
    let line = |name: &str, cell: &dyn Fn(&Measurements) -> String| {
        let cells: String = ways.iter().map(|way| format!("{:>12}", cell(way))).collect();
        format!("{name:<16}{cells}\n")
    };
    let names: String = WAYS.map(|(name, ..)| format!("{name:>12}")).concat();
    let mut table = format!("{:<16}{names}\n", "seconds per step");
    for (name, part) in parts {
        table += &line(name, &|way| format!("{:.3}", median(way.steps.iter().map(part).collect())));
    }
    table += &line("tokens", &|way| (way.computed / way.steps.len().max(1)).to_string());
    if ways.iter().all(|way| way.peak.is_some()) {
        table += &line("peak memory", &|way| format!("{} MiB", way.peak.unwrap_or(0) >> 20));
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
