//! The progress of a run: a bar in a terminal, a line for each step elsewhere.

use std::io::{IsTerminal, stderr};
use std::time::Duration;

use anyhow::Result;
use indicatif::{ProgressBar, ProgressStyle};

use crate::checkpoint::State;
use crate::metrics::StepMetrics;

/// A bar that starts at the step of a checkpoint. The first process shows it.
pub fn bar(run: String, steps: usize, state: &State, is_first: bool) -> Result<ProgressBar> {
    if !is_first {
        return Ok(ProgressBar::hidden());
    }
    let style = ProgressStyle::with_template("{prefix} {wide_bar} {pos}/{len}  eta {eta}  {msg}")?;
    let bar = ProgressBar::new(steps as u64).with_style(style).with_prefix(run);
    let bar = bar.with_elapsed(Duration::from_secs_f64(state.seconds));
    bar.set_position(state.step as u64);
    Ok(bar)
}

/// A bar for answers, some of which exist. The first process shows it.
pub fn of_answers(all: usize, done: usize, is_first: bool) -> Result<ProgressBar> {
    if !is_first {
        return Ok(ProgressBar::hidden());
    }
    let style = ProgressStyle::with_template("answers {wide_bar} {pos}/{len}  eta {eta}")?;
    let bar = ProgressBar::new(all as u64).with_style(style);
    bar.set_position(done as u64);
    Ok(bar)
}

/// Shows the metrics of a step.
pub fn show(bar: &ProgressBar, metrics: &StepMetrics) {
    let StepMetrics { step, loss, tokens, active, gated, kl, accuracy, margin, seconds, .. } = metrics;
    let percent = |part: f64, whole: usize| 100.0 * part / whole.max(1) as f64;
    let mut text = format!(
        "loss {loss:.4}  {:.0} tokens/s  active {:.0} %  gated {:.0} %",
        *tokens as f64 / seconds.total(),
        percent(*active as f64, *tokens),
        percent(*gated as f64, *active)
    );
    if let Some(kl) = kl {
        text += &format!("  KL {kl:.4}");
    }
    if let (Some(accuracy), Some(margin)) = (accuracy, margin) {
        text += &format!("  accuracy {:.0} %  margin {margin:.4}", 100.0 * accuracy);
    }
    if stderr().is_terminal() {
        bar.set_message(text);
        bar.set_position(*step as u64);
    } else {
        eprintln!("{} step {step}  {text}", bar.prefix());
    }
}
