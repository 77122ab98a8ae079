//! Levenshtein edit scripts with the tie-breaking of python-Levenshtein and RapidFuzz.

mod bits;
mod symbols;
#[cfg(test)]
mod table;
mod wavefronts;
mod window;

use std::cell::Cell;
use std::hash::Hash;

use bits::Bits;
use wavefronts::{Verdict, Wavefronts};
use window::Window;

use super::{EditOp, EditTag};

/// The shortest edit script from `source` to `dest`, in ascending order of position.
///
/// Among the equally short scripts it is the one that `Levenshtein.editops(source, dest)` of the Python package
/// returns:
///
/// 1. Strip the common prefix, then the common suffix.
/// 2. For the remaining items, let `D[i][j]` be the distance of the first `i` source and `j` destination items, and trace
///    back from the end: *delete* where `j = 0` or `D[i-1][j] + 1 == D[i][j]`; otherwise *insert* where `i = 0` or
///    `D[i][j-1] + 1 == D[i-1][j-1]`; otherwise step diagonally, a *replace* if the items differ.
///
/// python-Levenshtein splits pairs of more than about 2048 x 2048 items, where its choice may differ; here the rule holds
/// at every size.
///
/// With `n` and `m` the lengths after step 1 and `s` the distance, the time grows with `n + s^2` for near-equal
/// sequences, with `n + m` where items rarely repeat, and with `m * min(n, s) / 64` in the worst case. The memory is
/// linear in `n + m`, plus at most `n * sqrt(m) / 2` bytes. For pairs of up to 16,384 items in total it is less than
/// 4 MiB, and the thread keeps it for its next call.
///
/// ```
/// use figa_loss::{EditOp, EditTag, editops};
///
/// let ops = editops(&[1, 2, 3], &[1, 4, 3, 5]);
/// assert_eq!(ops, [
///     EditOp { tag: EditTag::Replace, src_pos: 1, dest_pos: 1 },
///     EditOp { tag: EditTag::Insert, src_pos: 3, dest_pos: 3 },
/// ]);
/// ```
pub fn editops<T: Eq + Hash>(source: &[T], dest: &[T]) -> Vec<EditOp> {
    Levenshtein::of_thread(source.len() + dest.len(), |levenshtein| levenshtein.editops(source, dest).to_vec())
}

/// The Levenshtein distance: how many insertions, deletions and substitutions [`editops`] needs.
///
/// ```
/// assert_eq!(figa_loss::distance(b"kitten", b"sitting"), 3);
/// ```
pub fn distance<T: Eq + Hash>(source: &[T], dest: &[T]) -> usize {
    let (_, source, dest) = strip(source, dest);
    match (source.len(), dest.len()) {
        (n, 0) => n,
        (0, m) => m,
        (n, m) => Levenshtein::of_thread(n + m, |levenshtein| levenshtein.measure(source, dest).1),
    }
}

/// The buffers of the three methods, reused from pair to pair.
#[derive(Debug, Default, Clone)]
pub(super) struct Levenshtein {
    wavefronts: Wavefronts,
    window: Window,
    bits: Bits,
    ops: Vec<EditOp>,
}

/// Threads keep the buffers of pairs with at most this many items in total.
const MAX_KEPT_ITEMS: usize = 1 << 14;

thread_local! {
    /// The buffers of [`Levenshtein::of_thread`]. They are taken while in use, so a nested call (from an `Eq`) allocates
    /// its own.
    static OF_THREAD: Cell<Option<Box<Levenshtein>>> = const { Cell::new(None) };
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Method {
    Wavefronts,
    Window,
    Bits,
}

impl Levenshtein {
    /// Runs with buffers that this thread keeps from call to call: for short pairs, allocation would take much of the
    /// time. The buffers of longer pairs are freed.
    pub(super) fn of_thread<R>(items: usize, run: impl FnOnce(&mut Self) -> R) -> R {
        let mut levenshtein = OF_THREAD.try_with(Cell::take).ok().flatten().unwrap_or_default();
        let result = run(&mut levenshtein);
        if items <= MAX_KEPT_ITEMS {
            // An error means that the thread is about to end, and frees its memory anyway.
            let _ = OF_THREAD.try_with(|of_thread| of_thread.set(Some(levenshtein)));
        }
        result
    }

    pub(super) fn editops<T: Eq + Hash>(&mut self, source: &[T], dest: &[T]) -> &[EditOp] {
        let (offset, source, dest) = strip(source, dest);
        self.ops.clear();
        if source.is_empty() {
            let insert = |j| EditOp { tag: EditTag::Insert, src_pos: offset, dest_pos: offset + j };
            self.ops.extend((0..dest.len()).map(insert));
            return &self.ops;
        }
        if dest.is_empty() {
            let delete = |i| EditOp { tag: EditTag::Delete, src_pos: offset + i, dest_pos: offset };
            self.ops.extend((0..source.len()).map(delete));
            return &self.ops;
        }
        let (method, distance) = self.measure(source, dest);
        self.ops.reserve(distance);
        let emit = |op: EditOp| {
            self.ops.push(EditOp { tag: op.tag, src_pos: offset + op.src_pos, dest_pos: offset + op.dest_pos });
        };
        match method {
            Method::Wavefronts => self.wavefronts.traceback(source.len(), dest.len(), emit),
            Method::Window => self.window.traceback(source.len(), dest.len(), emit),
            Method::Bits => self.bits.traceback(source, dest, emit),
        }
        self.ops.reverse();
        &self.ops
    }

    /// The distance of two non-empty sequences, by the fastest method for them.
    fn measure<T: Eq + Hash>(&mut self, source: &[T], dest: &[T]) -> (Method, usize) {
        let estimate = match self
            .wavefronts
            .run(source, dest, |estimate| wavefronts_are_faster(source.len(), dest.len(), estimate))
        {
            Verdict::Distance(distance) => return (Method::Wavefronts, distance),
            Verdict::Estimate(estimate) => estimate,
        };
        self.bits.symbols.prepare(source, dest);
        if let Some(distance) = self.window.run(&self.bits.symbols) {
            return (Method::Window, distance);
        }
        let limit = (estimate + estimate / 8).max(source.len().abs_diff(dest.len()));
        let by_limit = self.bits.band_of_limit(limit);
        if let Some(by_matches) = self.bits.band_of_matches()
            && by_matches.1 - by_matches.0 <= by_limit.1 - by_limit.0
        {
            return (Method::Bits, self.bits.run(by_matches));
        }
        let mut distance = self.bits.run(by_limit);
        if distance > limit {
            // Then it is an upper bound of the distance, and a sufficient limit.
            distance = self.bits.run(self.bits.band_of_limit(distance));
        }
        (Method::Bits, distance)
    }
}

/// Whether wavefronts are faster than the other methods, given an estimate of the distance.
fn wavefronts_are_faster(source_len: usize, dest_len: usize, estimate: usize) -> bool {
    // Per item, bit-vectors take about as long as four points of wavefronts, and longer only where many items match.
    estimate * estimate <= 4 * (source_len + dest_len)
}

/// The length of the common prefix, and the two sequences without their common prefix and suffix.
fn strip<'a, T: Eq>(source: &'a [T], dest: &'a [T]) -> (usize, &'a [T], &'a [T]) {
    let prefix = source.iter().zip(dest).take_while(|(s, d)| s == d).count();
    let (source, dest) = (&source[prefix..], &dest[prefix..]);
    let suffix = source.iter().rev().zip(dest.iter().rev()).take_while(|(s, d)| s == d).count();
    (prefix, &source[..source.len() - suffix], &dest[..dest.len() - suffix])
}

#[cfg(test)]
mod tests {
    use rand::{Rng, SeedableRng, rngs::StdRng};

    use super::*;

    /// The scripts of every method, at several settings.
    fn by_all_methods(source: &[u32], dest: &[u32]) -> Vec<(String, Vec<EditOp>)> {
        let (offset, s, d) = strip(source, dest);
        let mut scripts = vec![("default".into(), editops(source, dest))];
        if s.is_empty() || d.is_empty() {
            return scripts;
        }
        let finish = |mut ops: Vec<EditOp>| {
            ops.reverse();
            ops.iter()
                .map(|op| EditOp { src_pos: op.src_pos + offset, dest_pos: op.dest_pos + offset, ..*op })
                .collect()
        };
        let mut wavefronts = Wavefronts::default();
        let Verdict::Distance(distance) = wavefronts.run(s, d, |_| true) else { panic!("no distance") };
        let mut ops = vec![];
        wavefronts.traceback(s.len(), d.len(), |op| ops.push(op));
        scripts.push(("wavefronts".into(), finish(ops)));
        let mut bits = Bits::default();
        bits.symbols.prepare(s, d);
        let mut window = Window::default();
        if let Some(found) = window.run(&bits.symbols) {
            assert_eq!(found, distance, "window of {s:?} and {d:?}");
            let mut ops = vec![];
            window.traceback(s.len(), d.len(), |op| ops.push(op));
            scripts.push(("window".into(), finish(ops)));
        }
        let mut bands = vec![("matches".into(), bits.band_of_matches())];
        for limit in [distance, distance + 1, 2 * distance + 70, s.len() + d.len()] {
            bands.push((format!("limit {limit}"), Some(bits.band_of_limit(limit))));
        }
        for (name, band) in bands {
            let Some(band) = band else { continue };
            for budget in [0, usize::MAX] {
                assert_eq!(bits.run_within(band, budget), distance, "{name} of {s:?} and {d:?}");
                let mut ops = vec![];
                bits.traceback(s, d, |op| ops.push(op));
                scripts.push((format!("bits, {name}, budget {budget}"), finish(ops)));
            }
        }
        let least = s.len().abs_diff(d.len());
        for limit in [least, (least + distance) / 2] {
            let bound = bits.run(bits.band_of_limit(limit));
            assert!(bound >= distance && (bound > limit || bound == distance), "limit {limit}: {bound} for {distance}");
        }
        scripts
    }

    fn check(source: &[u32], dest: &[u32]) {
        let expected = table::editops(source, dest);
        assert_eq!(distance(source, dest), expected.len(), "distance of {source:?} and {dest:?}");
        for (method, ops) in by_all_methods(source, dest) {
            assert!(ops == expected, "{method}: {ops:?} but {expected:?} for {source:?} and {dest:?}");
        }
    }

    fn random_pair(rng: &mut StdRng, longest: usize) -> (Vec<u32>, Vec<u32>) {
        let alphabet = [2, 4, 50, 32_000][rng.random_range(0..4)];
        let source: Vec<u32> = (0..rng.random_range(0..=longest)).map(|_| rng.random_range(0..alphabet)).collect();
        let rate = rng.random_range(0.0..=1.0f64).powi(2);
        let mut dest = vec![];
        for &item in &source {
            match rng.random_bool(rate).then(|| rng.random_range(0..3)) {
                None => dest.push(item),
                Some(0) => dest.push(rng.random_range(0..alphabet)),
                Some(1) => dest.extend([item, rng.random_range(0..alphabet)]),
                Some(_) => {}
            }
        }
        dest.truncate(longest);
        if rng.random_bool(0.2) {
            // An insertion or a deletion at one end, so that the lengths differ.
            let cut = rng.random_range(0..=dest.len());
            dest.drain(..cut);
        }
        if rng.random_bool(0.2) {
            // A part that moves, perhaps beyond a narrow band.
            let (mut begin, mut end) = (rng.random_range(0..=dest.len()), rng.random_range(0..=dest.len()));
            (begin, end) = (begin.min(end), begin.max(end));
            dest[begin..end].rotate_left(rng.random_range(0..=end - begin));
        }
        (source, dest)
    }

    /// Shifts of about half a window, a window and a block.
    #[test]
    fn blocks_may_move_to_the_edge() {
        for shift in (28..=36).chain(60..=68) {
            for longer in [0, 1, 9] {
                let source: Vec<u32> = (0..shift).chain(1000..1200).collect();
                let dest: Vec<u32> = (1000..1200).chain(2000..2000 + shift + longer).collect();
                check(&source, &dest);
                check(&dest, &source);
            }
        }
    }

    /// Most matches lie outside of the window, on both sides of it.
    #[test]
    fn a_period_may_be_as_wide_as_a_window() {
        for period in 60..=70 {
            let item = |at: u32| match at % period {
                at @ (1 | 11 | 21) => at - 1,
                at => at,
            };
            let source: Vec<u32> = (0..100).map(item).collect();
            let dest: Vec<u32> = (32..132).map(item).collect();
            check(&source, &dest);
            check(&dest, &source);
        }
    }

    /// A detour beyond the edge that costs the same as staying inside, and that tie-breaking prefers.
    #[test]
    fn tie_breaking_considers_detours_beyond_the_edge() {
        for shift in (28..=36).chain(60..=68) {
            let source: Vec<u32> = (0..100).chain([900, 901]).chain(100..200).chain(300..300 + shift).collect();
            let dest: Vec<u32> = (400..400 + shift).chain(0..100).chain([902, 900]).chain(100..200).collect();
            check(&source, &dest);
            check(&dest, &source);
        }
    }

    /// `PAIRS=200000 cargo test --release --lib all_methods` for a long run; `SEED=...` repeats one.
    #[test]
    fn all_methods_equal_the_table() {
        let number = |name| std::env::var(name).ok().and_then(|value| value.parse::<u64>().ok());
        let seed = number("SEED").unwrap_or_else(|| rand::rng().random());
        println!("SEED={seed}");
        let mut rng = StdRng::seed_from_u64(seed);
        for _ in 0..number("PAIRS").unwrap_or(2000) {
            // Log-uniform lengths.
            let longest = 2000f64.powf(rng.random_range(0.0..=1.0)) as usize;
            let (source, dest) = random_pair(&mut rng, longest);
            check(&source, &dest);
        }
    }
}
