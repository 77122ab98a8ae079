//! Where the time of a step goes, and what it saves to leave the logits out.

use std::fs;

use anyhow::Result;
use figa_loss::Example;

use super::adamw::AdamW;
use super::pairs::Method;
use super::train::{Seconds, Setup, batch, step};

/// Steps of either kind, after one that is not timed.
const ROUNDS: usize = 5;

/// Takes the same steps with the fused loss and with the one from all logits, in turn, and tells medians of the time
/// and the peak of memory. Learns nothing: the learning rate is 0.
pub fn profile(setup: &Setup, method: Method, seed: u64) -> Result<String> {
    let model = setup.model.take().map_or_else(|| setup.load(&setup.source), Ok)?;
    let mut optimizer = AdamW::new(&model.parameters);
    let rows = setup.pairs.rows(&setup.records, &setup.data, method)?;
    let mut runs = [vec![], vec![]];
    let mut peaks = [None::<u64>; 2];
    for round in 0..=ROUNDS {
        let pairs: Vec<&[Example]> =
            batch(seed, rows.len(), round, setup.args.batch).into_iter().map(|pair| &rows[pair][..]).collect();
        for (kind, dense) in [false, true].into_iter().enumerate() {
            let before = Memory::reset();
            let taken = step(setup, &model, &mut optimizer, method.loss(), &pairs, 0.0, dense)?;
            if let Ok(metrics) = taken
                && round > 0
            {
                runs[kind].push(metrics.seconds);
                peaks[kind] = peaks[kind].max(before.and_then(Memory::grown));
            }
        }
    }
    let parts: [(&str, Part); 5] = [
        ("model forward", |s| s.forward),
        ("head and loss", |s| s.loss),
        ("backward", |s| s.backward),
        ("optimizer", |s| s.optimizer),
        ("all", Seconds::total),
    ];
    let mut table = format!("{:<16}{:>10}{:>10}\n", "seconds a step", "fused", "dense");
    for (name, part) in parts {
        let [fused, dense] = runs.each_ref().map(|runs| median(runs.iter().map(part).collect()));
        table += &format!("{name:<16}{fused:>10.3}{dense:>10.3}\n");
    }
    if let [Some(fused), Some(dense)] = peaks {
        table += &format!("{:<16}{:>6} MiB{:>6} MiB\n", "peak, extra", fused >> 20, dense >> 20);
    }
    Ok(table)
}

type Part = fn(&Seconds) -> f64;

fn median(mut values: Vec<f64>) -> f64 {
    values.sort_by(f64::total_cmp);
    values.get(values.len() / 2).copied().unwrap_or(f64::NAN)
}

/// The memory of this process, as Linux tells it; nothing elsewhere, and nothing about a GPU's.
struct Memory {
    before: u64,
}

impl Memory {
    /// Forgets the peak so far, and gives back what is free, or the next step would grow into it unseen.
    fn reset() -> Option<Self> {
        #[cfg(all(target_os = "linux", target_env = "gnu"))]
        // SAFETY: it has no preconditions.
        unsafe {
            libc::malloc_trim(0);
        }
        fs::write("/proc/self/clear_refs", "5").ok()?;
        Some(Self { before: bytes("VmRSS:")? })
    }

    /// By how much the peak since then exceeds what there was.
    fn grown(self) -> Option<u64> {
        Some(bytes("VmHWM:")?.saturating_sub(self.before))
    }
}

fn bytes(field: &str) -> Option<u64> {
    let status = fs::read_to_string("/proc/self/status").ok()?;
    let line = status.lines().find_map(|line| line.strip_prefix(field))?;
    Some(line.split_whitespace().next()?.parse::<u64>().ok()? << 10)
}
