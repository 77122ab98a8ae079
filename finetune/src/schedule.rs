//! Data order and learning rate. Both depend only on the seed and the step, so a resumed run needs no other state.

use std::f64::consts::PI;

use rand::{SeedableRng, rngs::StdRng, seq::SliceRandom};

/// The warm-up takes one part in this many of all steps.
const WARM_UP_DIVISOR: usize = 10;

/// The indices of the pairs of a step. Each epoch goes through all pairs in an order of its own.
pub fn batch(seed: u64, pairs: usize, step: usize, size: usize) -> Vec<usize> {
    let (start, end) = (step * size, (step + 1) * size);
    let epochs = start / pairs..end.div_ceil(pairs);
    let of_epoch = |epoch: usize| {
        let first = epoch * pairs;
        shuffled(seed, epoch, pairs)[start.max(first) - first..end.min(first + pairs) - first].to_vec()
    };
    epochs.flat_map(of_epoch).collect()
}

fn shuffled(seed: u64, epoch: usize, pairs: usize) -> Vec<usize> {
    let mut order: Vec<usize> = (0..pairs).collect();
    order.shuffle(&mut StdRng::seed_from_u64(seed.wrapping_add((epoch as u64) << 32)));
    order
}

/// The share of the peak learning rate at a step: a linear warm-up, then a cosine to 0.
pub fn lr_factor(step: usize, steps: usize) -> f64 {
    let warm_up = steps.div_ceil(WARM_UP_DIVISOR);
    if step < warm_up {
        return (step + 1) as f64 / warm_up as f64;
    }
    let progress = (step - warm_up) as f64 / (steps - warm_up) as f64;
    0.5 * (1.0 + (PI * progress).cos())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_epoch_contains_every_pair_once() {
        let drawn: Vec<usize> = (0..6).flat_map(|step| batch(7, 9, step, 3)).collect();
        for epoch in drawn.chunks(9) {
            let mut sorted = epoch.to_vec();
            sorted.sort_unstable();
            assert_eq!(sorted, (0..9).collect::<Vec<_>>());
        }
        assert_ne!(drawn[..9], drawn[9..]);
        // A step may span more than one epoch.
        assert_eq!(batch(7, 9, 0, 18), drawn);
        assert_eq!(batch(7, 9, 1, 7), drawn[7..14]);
    }

    #[test]
    fn the_learning_rate_rises_for_a_tenth_of_the_steps_and_then_falls_to_0() {
        let factors: Vec<f64> = (0..20).map(|step| lr_factor(step, 20)).collect();
        assert_eq!(factors[..3], [0.5, 1.0, 1.0]);
        assert!(factors[2..].windows(2).all(|pair| pair[1] < pair[0]));
        assert!(factors[19] > 0.0 && factors[19] < 0.01);
        assert_eq!(lr_factor(0, 1), 1.0);
    }
}
