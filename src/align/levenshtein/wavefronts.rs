//! Near-equal sequences: furthest-reaching points on diagonals, at a cost that grows with the square of the distance
//! (Ukkonen 1985).
//!
//! On diagonal `k = i - j` the distance `D[i][j]` never decreases, so `reach(s, k)` determines it: the greatest `i` on
//! the diagonal with `D[i][i - k] <= s`. Wavefront `s` holds `reach(s, k)` for all diagonals that `s` edits can reach.
//! It follows from wavefront `s - 1` by one edit and then any number of equal items.
//!
//! The traceback needs no table either. At a point of cost `s` on diagonal `k`, the rules of tie-breaking become
//!
//! ```text
//! delete   D[i-1][j] = s - 1                          i <= reach(s-1, k-1) + 1                              =: a
//! insert   D[i][j-1] = s - 1 and D[i-1][j-1] = s      i <= reach(s-1, k+1) =: b  and  i > reach(s-1, k) + 1 =: c
//! replace  D[i-1][j-1] = s - 1                        i <= c
//! ```
//!
//! (The rule for insert is `D[i][j-1] + 1 = D[i-1][j-1]`. It is equivalent, since `s = D[i][j] <= D[i][j-1] + 1` and
//! `D[i-1][j-1] <= s`.) None of `a`, `b`, `c` depends on `i`, so the traceback jumps to the greatest of them: above it
//! there are only equal items.

use crate::align::{EditOp, EditTag};

/// Less than any reach, even after a few steps.
const NOWHERE: i32 = i32::MIN / 2;

/// The most points of all wavefronts (16 MiB). A pair that needs more is not near-equal.
const MAX_POINTS: usize = 4 << 20;

/// The first wavefront after which the distance is estimated, then again whenever their number has doubled.
const FIRST_ESTIMATE: i32 = 8;

/// Points of one wavefront beyond those on its diagonals: [`NOWHERE`], two on either side.
const PADDING: i32 = 2;

#[derive(Debug, Default, Clone)]
pub(super) struct Wavefronts {
    /// The wavefronts one after another, each with [`PADDING`] on either side.
    points: Vec<i32>,
    /// For each wavefront, the index of diagonal 0 in `points`.
    origins: Vec<usize>,
}

/// How a run of wavefronts ended.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Verdict {
    /// The last wavefront reached the end: this is the distance.
    Distance(usize),
    /// An estimate of the distance, at which another method is faster.
    Estimate(usize),
}

impl Wavefronts {
    /// Computes wavefronts until one reaches the end, or until `is_worthwhile(estimated distance)` is false.
    pub(super) fn run<T: Eq>(&mut self, source: &[T], dest: &[T], is_worthwhile: impl Fn(usize) -> bool) -> Verdict {
        let (n, m) = (source.len() as i32, dest.len() as i32);
        let slide = |k: i32, i: i32| {
            // Neither is negative. The casts avoid two sign extensions per point, which take measurable time.
            let (mut i, mut j) = (i as u32 as usize, (i - k) as u32 as usize);
            while i < source.len() && j < dest.len() && source[i] == dest[j] {
                (i, j) = (i + 1, j + 1);
            }
            i as i32
        };
        self.points.clear();
        self.points.reserve(1024);
        self.origins.clear();
        self.origins.reserve(32);
        self.points.extend([NOWHERE, NOWHERE, slide(0, 0), NOWHERE, NOWHERE]);
        self.origins.push(2);
        for s in 1.. {
            let (first, last) = diagonals(s - 1, n, m);
            if (first..=last).contains(&(n - m)) && self.reach(s - 1, n - m) == n {
                return Verdict::Distance(s as usize - 1);
            }
            if s >= FIRST_ESTIMATE && s.count_ones() == 1 {
                let estimate = self.estimate(s, n, m);
                if self.points.len() > MAX_POINTS || !is_worthwhile(estimate) {
                    return Verdict::Estimate(estimate);
                }
            }
            let (first, last) = diagonals(s, n, m);
            let (before, start) = (self.index(s - 1, first - 1), self.points.len());
            self.points.resize(start + (last - first + 1 + 2 * PADDING) as usize, NOWHERE);
            self.origins.push((start as isize + (PADDING - first) as isize) as usize);
            let (done, wavefront) = self.points.split_at_mut(start);
            // Two loops, because the first one is vectorised.
            let points = &mut wavefront[PADDING as usize..][..(last - first + 1) as usize];
            for ((point, from), k) in points.iter_mut().zip(done[before..].windows(3)).zip(first..) {
                *point = (from[0].max(from[1]) + 1).max(from[2]).min(n).min(m + k);
            }
            for (point, k) in points.iter_mut().zip(first..) {
                *point = slide(k, *point);
            }
        }
        unreachable!("wavefront n + m reaches the end")
    }

    /// An estimate of the distance before wavefront `s`: the same number of edits for each item as so far.
    fn estimate(&self, s: i32, n: i32, m: i32) -> usize {
        let (first, last) = diagonals(s - 1, n, m);
        let items = (first..=last).map(|k| 2 * i64::from(self.reach(s - 1, k)) - i64::from(k)).max();
        (i64::from(s) * i64::from(n + m) / items.unwrap_or(1).max(1)) as usize
    }

    /// The edit script, last edit first, after a run that found the distance.
    pub(super) fn traceback(&self, source_len: usize, dest_len: usize, mut emit: impl FnMut(EditOp)) {
        let mut i = source_len as i32;
        let mut k = i - dest_len as i32;
        for s in (0..self.origins.len() as i32 - 1).rev() {
            let (a, b, c) = (self.reach(s, k - 1) + 1, self.reach(s, k + 1), self.reach(s, k) + 1);
            i = i.min(a.max(b).max(c));
            let tag = if i <= a {
                EditTag::Delete
            } else if i <= b && i > c {
                EditTag::Insert
            } else {
                EditTag::Replace
            };
            let (source, dest) = tag.lengths();
            let j = i - k - dest as i32;
            i -= source as i32;
            k = i - j;
            emit(EditOp { tag, src_pos: i as usize, dest_pos: j as usize });
        }
    }

    fn reach(&self, s: i32, k: i32) -> i32 {
        self.points[self.index(s, k)]
    }

    fn index(&self, s: i32, k: i32) -> usize {
        (self.origins[s as usize] as isize + k as isize) as usize
    }
}

/// The first and last diagonal that wavefront `s` can reach.
fn diagonals(s: i32, n: i32, m: i32) -> (i32, i32) {
    ((-s).max(-m), s.min(n))
}
