//! The processes that a launcher has started for a run: what each of them does, and what they tell each other.

use std::ops::Range;

use anyhow::{Context, Result, ensure};
use figa_loss::tch::{Device, Kind, Tensor};
use serde::Serialize;
use serde::de::DeserializeOwned;
use tch_c10d::{ProcessGroup, ReduceOp, Rendezvous};

/// All processes of a run. The first one writes and prints.
pub struct Ranks {
    /// `None` for a process of its own.
    group: Option<ProcessGroup>,
}

impl Ranks {
    /// A process of its own.
    pub const ALONE: Self = Self { group: None };

    /// Those that a launcher such as torchrun has started, or this one alone.
    pub fn from_env() -> Result<Self> {
        let rendezvous = Rendezvous::from_env()?.filter(|rendezvous| rendezvous.world_size > 1);
        Ok(Self { group: rendezvous.map(|rendezvous| ProcessGroup::connect(&rendezvous)).transpose()? })
    }

    /// Whether the launcher has started the program again after a process had died.
    pub fn were_restarted() -> Result<bool> {
        Ok(Rendezvous::from_env()?.is_some_and(|rendezvous| rendezvous.restarts > 0))
    }

    /// How many there are.
    pub fn count(&self) -> usize {
        self.group.as_ref().map_or(1, ProcessGroup::world_size)
    }

    /// The number of this one, from 0.
    pub fn rank(&self) -> usize {
        self.group.as_ref().map_or(0, ProcessGroup::rank)
    }

    /// Whether this one writes and prints.
    pub fn is_first(&self) -> bool {
        self.rank() == 0
    }

    /// The share of this process in a list.
    pub fn share(&self, len: usize) -> Range<usize> {
        let bound = |rank: usize| rank * len / self.count();
        bound(self.rank())..bound(self.rank() + 1)
    }

    /// Replaces numbers by their sums over all processes.
    pub fn sum(&self, numbers: &mut [f64]) -> Result<()> {
        let Some(group) = &self.group else { return Ok(()) };
        let mut tensor = Tensor::from_slice(numbers);
        group.all_reduce(&mut tensor, ReduceOp::Sum)?.wait()?;
        tensor.f_copy_data(numbers, numbers.len())?;
        Ok(())
    }

    /// Replaces a tensor by the sum over all processes.
    pub fn sum_tensor(&self, tensor: &mut Tensor) -> Result<()> {
        let Some(group) = &self.group else { return Ok(()) };
        if !tensor.is_contiguous() {
            *tensor = tensor.contiguous();
        }
        Ok(group.all_reduce(tensor, ReduceOp::Sum)?.wait()?)
    }

    /// Whether it is so in any process.
    pub fn any(&self, flag: bool) -> Result<bool> {
        let mut number = [f64::from(flag)];
        self.sum(&mut number)?;
        Ok(number[0] > 0.0)
    }

    /// The parts `[n]` of all processes, one behind the other. All but those of the last processes have the same length, and
    /// none is longer.
    pub fn join(&self, part: &Tensor, len: i64) -> Result<Tensor> {
        let Some(group) = &self.group else { return Ok(part.shallow_clone()) };
        let chunk = chunk(len, self.count());
        let padded = part.constant_pad_nd([0, chunk - part.size1()?]).contiguous();
        let mut all = Tensor::empty([chunk * self.count() as i64], (part.kind(), part.device()));
        group.all_gather(&mut all, &padded)?.wait()?;
        Ok(all.narrow(0, 0, len))
    }

    /// The part of this process in `len` numbers that [`join`](Self::join) puts together: its start and length.
    pub fn part(&self, len: i64) -> (i64, i64) {
        let chunk = chunk(len, self.count());
        let start = (self.rank() as i64 * chunk).min(len);
        (start, chunk.min(len - start))
    }

    /// What each process has, in the order of the ranks.
    pub fn gather<T: Serialize + DeserializeOwned>(&self, value: T) -> Result<Vec<T>> {
        let Some(group) = &self.group else { return Ok(vec![value]) };
        let bytes = serde_json::to_vec(&value)?;
        let mut sizes = vec![0.0; self.count()];
        sizes[self.rank()] = bytes.len() as f64;
        self.sum(&mut sizes)?;
        let most = sizes.iter().fold(0.0, |most: f64, &size| most.max(size)) as i64;
        let padded = Tensor::from_slice(&bytes).constant_pad_nd([0, most - bytes.len() as i64]);
        let mut all = Tensor::zeros([most * self.count() as i64], (Kind::Uint8, Device::Cpu));
        group.all_gather(&mut all, &padded)?.wait()?;
        let all = Vec::<u8>::try_from(&all)?;
        let values = all.chunks(most as usize).zip(sizes);
        values.map(|(bytes, size)| Ok(serde_json::from_slice(&bytes[..size as usize])?)).collect()
    }

    /// What the first process finds. If that is an error, the others end with one as well.
    pub fn from_first<T: Serialize + DeserializeOwned>(&self, find: impl FnOnce() -> Result<T>) -> Result<T> {
        // A tuple, because JSON does not tell None from Some(None).
        let found = if self.is_first() { Some((find()?,)) } else { None };
        let all = self.gather(found)?;
        let (found,) = all.into_iter().next().flatten().context("rank 0 has sent nothing")?;
        Ok(found)
    }

    /// Checks that all processes were given the same. `what` names it.
    pub fn check_same(&self, what: &str, value: &str) -> Result<()> {
        let all = self.gather(value.to_owned())?;
        let different = all.iter().position(|other| *other != all[0]);
        let this = different.unwrap_or_default();
        ensure!(different.is_none(), "{what} of rank {this} differ from those of rank 0: give all ranks the same");
        Ok(())
    }
}

/// How many of `len` numbers each process has.
fn chunk(len: i64, processes: usize) -> i64 {
    (len as u64).div_ceil(processes as u64) as i64
}
