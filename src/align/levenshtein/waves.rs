//! Near-equal pairs: furthest-reaching points on diagonals, at a cost that grows with the square of the distance.
//!
//! On diagonal `k = i - j` the distance `D[i][j]` never falls, so it is known once `reach(s, k)` is: the greatest `i`
//! on the diagonal with `D[i][i - k] <= s`. Wave `s` holds `reach(s, k)` for all diagonals that `s` edits can get to,
//! and follows from wave `s - 1`: one edit on from there, then along equal items for free.
//!
//! Walking back needs no table either. At a point of cost `s` on diagonal `k`, the conditions of the contract read
//!
//! ```text
//! delete   D[i-1][j] = s - 1                          i <= reach(s-1, k-1) + 1                              =: a
//! insert   D[i][j-1] = s - 1 and D[i-1][j-1] = s      i <= reach(s-1, k+1) =: b  and  i > reach(s-1, k) + 1 =: c
//! replace  D[i-1][j-1] = s - 1                        i <= c
//! ```
//!
//! (Insert asks for `D[i][j-1] + 1 = D[i-1][j-1]`. Since `s = D[i][j] <= D[i][j-1] + 1` and `D[i-1][j-1] <= s`, that
//! is the same.) None of `a`, `b`, `c` depends on `i`, so the walk jumps to the greatest of them: what lies above is
//! equal items.

use crate::align::{EditOp, EditTag};

/// Less than any reach, also after a few steps.
const NOWHERE: i32 = i32::MIN / 2;

/// Waves may hold so many points (16 MiB); beyond, the pair is not near-equal.
const MAX_POINTS: usize = 4 << 20;

#[derive(Debug, Default, Clone)]
pub(super) struct Waves {
    /// The waves one after another, each with two points that are [`NOWHERE`] on either side.
    points: Vec<i32>,
    /// Per wave, where diagonal 0 is in `points`.
    origins: Vec<usize>,
}

/// How a run of waves ended.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Verdict {
    /// The last wave arrived: this is the distance.
    Distance(usize),
    /// The pair looks as if it were so far apart; another method is faster.
    Estimate(usize),
}

impl Waves {
    /// Sends waves until one arrives, or until `go_on(estimated distance)` is false.
    pub(super) fn run<T: Eq>(&mut self, source: &[T], dest: &[T], go_on: impl Fn(usize) -> bool) -> Verdict {
        let (n, m) = (source.len() as i32, dest.len() as i32);
        let slide = |k: i32, i: i32| {
            // Neither is negative here; to say so spares two sign extensions per point, which are felt.
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
            if s >= 8 && s & (s - 1) == 0 {
                let covered = (first..=last).map(|k| 2 * i64::from(self.reach(s - 1, k)) - i64::from(k)).max();
                let estimate = i64::from(s) * i64::from(n + m) / covered.unwrap_or(1).max(1);
                if self.points.len() > MAX_POINTS || !go_on(estimate as usize) {
                    return Verdict::Estimate(estimate as usize);
                }
            }
            let (first, last) = diagonals(s, n, m);
            let (before, start) = (self.index(s - 1, first - 1), self.points.len());
            self.points.resize(start + (last - first + 5) as usize, NOWHERE);
            self.origins.push((start as isize + 2 - first as isize) as usize);
            let (done, wave) = self.points.split_at_mut(start);
            // Two loops, because the processor takes the first several points at a time.
            let points = &mut wave[2..(last - first + 3) as usize];
            for ((point, from), k) in points.iter_mut().zip(done[before..].windows(3)).zip(first..) {
                *point = (from[0].max(from[1]) + 1).max(from[2]).min(n).min(m + k);
            }
            for (point, k) in points.iter_mut().zip(first..) {
                *point = slide(k, *point);
            }
        }
        unreachable!("after n + m waves at the latest, one has arrived")
    }

    /// The edit script, last edit first, after a run that found the distance.
    pub(super) fn walk_back(&self, source_len: usize, dest_len: usize, mut emit: impl FnMut(EditOp)) {
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

/// The first and last diagonal that wave `s` can get to.
fn diagonals(s: i32, n: i32, m: i32) -> (i32, i32) {
    ((-s).max(-m), s.min(n))
}
