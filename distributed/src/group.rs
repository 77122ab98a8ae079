//! A group of processes, and what they do together.

use tch::{Device, Kind, Tensor};

use crate::call::{Call, KINDS};
use crate::connect::{connect, one_line};
use crate::{Error, Rendezvous, Result, Work, raw};

/// What distinguishes messages between two processes: those of `send`, and those that compare calls.
const TENSOR_TAG: i32 = 0;
const CALL_TAG: i32 = 1;

/// How tensors of several processes become one.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ReduceOp {
    /// The sum.
    Sum,
    /// The mean, of floating-point numbers. Each process divides its share, so no sum overflows.
    Mean,
    /// The maximum.
    Max,
}

/// Processes that know each other.
///
/// All processes call the same operations in the same order, with tensors of the same shape and dtype. Each call first
/// waits until all processes make it, and compares; then it begins, and [`Work::wait`] ends it. Tensors are on the CPU.
///
/// After an error of communication, a group is of no use: the process ends, and the launcher starts all of them anew.
#[derive(Debug)]
pub struct ProcessGroup {
    // Dropped in this order: the store that rank 0 may run lasts longest.
    raw: raw::Group,
    store: raw::Store,
    rendezvous: Rendezvous,
}

impl ProcessGroup {
    /// Meets the processes that the launcher has started, see [`Rendezvous::from_env`].
    ///
    /// # Errors
    /// If no launcher has set the variables, and for all reasons of [`connect`](Self::connect).
    pub fn from_env() -> Result<Self> {
        let message = "not set; start the program with torchrun, srun or mpirun, or set RANK, WORLD_SIZE, MASTER_ADDR and \
                       MASTER_PORT";
        let rendezvous = Rendezvous::from_env()?;
        Self::connect(&rendezvous.ok_or_else(|| Error::Environment { variable: "RANK", message: message.into() })?)
    }

    /// Meets the other processes, and returns when all are there.
    ///
    /// # Errors
    /// If they do not come before the timeout, if two have the same rank, or if they expect different numbers of
    /// processes.
    pub fn connect(rendezvous: &Rendezvous) -> Result<Self> {
        let (store, raw) = connect(rendezvous)?;
        let group = Self { raw, store, rendezvous: rendezvous.clone() };
        // Otherwise a process could end while another still connects to it.
        group.agree(&Call::new("connect", 0))?;
        Ok(group)
    }

    /// The number of this process, from 0.
    pub fn rank(&self) -> usize {
        self.rendezvous.rank
    }

    /// How many processes there are.
    pub fn world_size(&self) -> usize {
        self.rendezvous.world_size
    }

    /// Replaces a tensor, in all processes, by the sum, the mean or the maximum of theirs.
    ///
    /// # Errors
    /// If the dtype, the layout or the device of the tensor cannot be sent, or if other processes call something else.
    pub fn all_reduce<'a>(&'a self, tensor: &'a mut Tensor, op: ReduceOp) -> Result<Work<'a>> {
        self.check("tensor of all_reduce", tensor)?;
        check_op(op, tensor)?;
        self.agree(&Call::with("all_reduce", op as i64, tensor))?;
        self.divide(tensor, op);
        Work::new(self, "all_reduce", self.raw.all_reduce(tensor, op == ReduceOp::Max))
    }

    /// Replaces a tensor, in all processes, by that of one of them.
    ///
    /// # Errors
    /// As [`all_reduce`](Self::all_reduce), and if there is no process `root`.
    pub fn broadcast<'a>(&'a self, tensor: &'a mut Tensor, root: usize) -> Result<Work<'a>> {
        self.check("tensor of broadcast", tensor)?;
        self.check_peer("root", root)?;
        self.agree(&Call::with("broadcast", root as i64, tensor))?;
        Work::new(self, "broadcast", self.raw.broadcast(tensor, root))
    }

    /// Writes the tensors of all processes, in the order of their ranks, into a tensor of as many times the elements.
    ///
    /// # Errors
    /// As [`all_reduce`](Self::all_reduce), and if the output has another dtype, device or number of elements.
    pub fn all_gather<'a>(&'a self, output: &'a mut Tensor, input: &'a Tensor) -> Result<Work<'a>> {
        self.check("input of all_gather", input)?;
        self.check("output of all_gather", output)?;
        self.check_parts("output of all_gather", output, input)?;
        self.agree(&Call::with("all_gather", 0, input))?;
        Work::new(self, "all_gather", self.raw.all_gather(output, input))
    }

    /// Reduces a tensor as [`all_reduce`](Self::all_reduce) does, and writes one of as many equal parts as there are
    /// processes into the output: that of the process's rank. The values of the input are lost.
    ///
    /// With Gloo, this takes as long as [`all_reduce`](Self::all_reduce).
    ///
    /// # Errors
    /// As [`all_reduce`](Self::all_reduce), and if the output has another dtype, device or number of elements.
    pub fn reduce_scatter<'a>(
        &'a self,
        output: &'a mut Tensor,
        input: &'a mut Tensor,
        op: ReduceOp,
    ) -> Result<Work<'a>> {
        self.check("input of reduce_scatter", input)?;
        self.check("output of reduce_scatter", output)?;
        self.check_parts("input of reduce_scatter", input, output)?;
        check_op(op, input)?;
        self.agree(&Call::with("reduce_scatter", op as i64, output))?;
        self.divide(input, op);
        Work::new(self, "reduce_scatter", self.raw.reduce_scatter(output, input, op == ReduceOp::Max))
    }

    /// Sends a tensor to a process, and returns when that has [received](Self::receive) it.
    ///
    /// # Errors
    /// As [`all_reduce`](Self::all_reduce), and if `to` is no other process.
    pub fn send(&self, tensor: &Tensor, to: usize) -> Result<()> {
        self.check("tensor of send", tensor)?;
        self.check_other("to", to)?;
        let header = Tensor::from_slice(&Call::with("send", to as i64, tensor).numbers());
        Work::new(self, "send", self.raw.send(&header, to, TENSOR_TAG))?.wait()?;
        Work::new(self, "send", self.raw.send(tensor, to, TENSOR_TAG))?.wait()
    }

    /// Replaces a tensor by the one that another process [sends](Self::send).
    ///
    /// # Errors
    /// As [`all_reduce`](Self::all_reduce), and if `from` is no other process.
    pub fn receive(&self, tensor: &mut Tensor, from: usize) -> Result<()> {
        self.check("tensor of receive", tensor)?;
        self.check_other("from", from)?;
        let mut header = Tensor::from_slice(&[0i64; Call::NUMBERS]);
        Work::new(self, "receive", self.raw.receive(&mut header, from, TENSOR_TAG))?.wait()?;
        let expected = Call::with("send", self.rank() as i64, tensor);
        self.compare("receive", &expected, from, &numbers(&header))?;
        Work::new(self, "receive", self.raw.receive(tensor, from, TENSOR_TAG))?.wait()
    }

    /// Waits until all processes are here.
    ///
    /// # Errors
    /// If a process has ended, does not come before the timeout, or calls something else.
    pub fn barrier(&self) -> Result<()> {
        self.agree(&Call::new("barrier", 0))
    }

    pub(crate) fn raw(&self) -> &raw::Group {
        &self.raw
    }

    /// Waits until all processes make a call, and compares. Gloo does not: it ends the process, or mixes up tensors.
    pub(crate) fn agree(&self, call: &Call) -> Result<()> {
        let (mut least, mut greatest) = (call.numbers(), call.numbers());
        // Dissemination (Hensgen, Finkel and Manber 1988): each round doubles the number of processes that are known.
        let (rank, world_size) = (self.rank(), self.world_size());
        let mut distance = 1;
        while distance < world_size {
            let (to, from) = ((rank + distance) % world_size, (rank + world_size - distance) % world_size);
            let known = Tensor::from_slice(&[least, greatest].concat());
            let mut received = known.zeros_like();
            let receive = Work::new(self, call.operation, self.raw.receive(&mut received, from, CALL_TAG))?;
            let send = Work::new(self, call.operation, self.raw.send(&known, to, CALL_TAG))?;
            receive.wait()?;
            send.wait()?;
            let received = numbers(&received);
            let (others_least, others_greatest) = received.split_at(Call::NUMBERS);
            least.iter_mut().zip(others_least).for_each(|(least, &other)| *least = other.min(*least));
            greatest.iter_mut().zip(others_greatest).for_each(|(greatest, &other)| *greatest = other.max(*greatest));
            distance *= 2;
        }
        if least == greatest { Ok(()) } else { self.compare_all(call) }
    }

    /// Names a process that makes another call. All processes know that there is one.
    fn compare_all(&self, call: &Call) -> Result<()> {
        let input = Tensor::from_slice(&call.numbers());
        let mut output = Tensor::zeros([(self.world_size() * Call::NUMBERS) as i64], (Kind::Int64, Device::Cpu));
        Work::new(self, call.operation, self.raw.all_gather(&mut output, &input))?.wait()?;
        let all = numbers(&output);
        (0..)
            .zip(all.chunks(Call::NUMBERS))
            .try_for_each(|(rank, other)| self.compare(call.operation, call, rank, other))
    }

    fn compare(&self, operation: &'static str, call: &Call, rank: usize, other: &[i64]) -> Result<()> {
        if other == call.numbers() {
            return Ok(());
        }
        let other = Call::from_numbers(other).map_or("something else".into(), |call| call.to_string());
        let arguments = if other == call.to_string() { " with other arguments" } else { "" };
        let this = Call { operation, ..call.clone() };
        let reason = format!(
            "rank {rank} calls {other}{arguments}, this rank {this}; make the same calls, in the same order, on all ranks"
        );
        Err(self.failed(operation, reason))
    }

    pub(crate) fn failed(&self, operation: &'static str, reason: String) -> Error {
        Error::Communication { rank: self.rank(), world_size: self.world_size(), operation, reason }
    }

    /// An error of c10d, which rarely says whose fault it is. Those who see an error report it in the store, so the
    /// cause is among the others.
    pub(crate) fn communication_error(&self, operation: &'static str, message: &str) -> Error {
        let first = match self.store.silent_ranks(self.rank(), self.world_size()) {
            Ok(silent) if silent.is_empty() => None,
            Ok(silent) => Some(format!("{} did not report an error", ranks(&silent))),
            Err(_) if self.rendezvous.agent_store => Some("the store of the launcher does not answer".into()),
            Err(_) => Some("rank 0, which runs the store, does not answer".into()),
        };
        let first = first.map_or(String::new(), |first| format!("; {first}: look there first"));
        self.failed(operation, format!("{}{first}; restart all ranks", one_line(message)))
    }

    /// What every operation needs of a tensor.
    pub(crate) fn check(&self, argument: &'static str, tensor: &Tensor) -> Result<()> {
        let error =
            |expected: &str, actual: String| Err(Error::Argument { argument, expected: expected.into(), actual });
        if !tensor.defined() {
            return error("a tensor", "an undefined one".into());
        }
        if KINDS.iter().all(|(kind, _)| *kind != tensor.kind()) {
            return error("f32, bf16, f16, f64, i64 or u8", format!("{:?}", tensor.kind()));
        }
        if tensor.is_sparse() || !tensor.is_contiguous() {
            return error("a contiguous tensor (`contiguous` makes one)", "another layout".into());
        }
        check_device(argument, tensor.device())
    }

    fn check_parts(&self, argument: &'static str, whole: &Tensor, part: &Tensor) -> Result<()> {
        let describe = |tensor: &Tensor, count| format!("{count} elements, {:?}, {:?}", tensor.kind(), tensor.device());
        let (expected, actual) = (describe(part, part.numel() * self.world_size()), describe(whole, whole.numel()));
        if expected == actual { Ok(()) } else { Err(Error::Argument { argument, expected, actual }) }
    }

    fn check_peer(&self, argument: &'static str, peer: usize) -> Result<()> {
        let expected = || format!("a rank below {}", self.world_size());
        let error = || Error::Argument { argument, expected: expected(), actual: peer.to_string() };
        if peer < self.world_size() { Ok(()) } else { Err(error()) }
    }

    fn check_other(&self, argument: &'static str, peer: usize) -> Result<()> {
        self.check_peer(argument, peer)?;
        let error = || Error::Argument { argument, expected: "another rank".into(), actual: peer.to_string() };
        if peer == self.rank() { Err(error()) } else { Ok(()) }
    }

    /// The share of this process in a mean.
    fn divide(&self, tensor: &mut Tensor, op: ReduceOp) {
        if op == ReduceOp::Mean {
            let _no_grad = tch::no_grad_guard();
            let _ = tensor.g_div_scalar_(self.world_size() as i64);
        }
    }
}

/// Tensors go through Gloo, from and to the memory of the CPU.
fn check_device(argument: &'static str, device: Device) -> Result<()> {
    if device == Device::Cpu {
        return Ok(());
    }
    let expected = "a tensor on the CPU (`to_device` moves one; to train on several GPUs, use PyTorch with the Python \
                    package figa-loss)";
    Err(Error::Argument { argument, expected: expected.into(), actual: format!("one on {device:?}") })
}

fn check_op(op: ReduceOp, tensor: &Tensor) -> Result<()> {
    if op == ReduceOp::Mean && matches!(tensor.kind(), Kind::Int64 | Kind::Uint8) {
        let (expected, actual) = ("Sum or Max for integers".into(), "Mean".into());
        return Err(Error::Argument { argument: "op", expected, actual });
    }
    Ok(())
}

fn numbers(tensor: &Tensor) -> Vec<i64> {
    let mut numbers = vec![0; tensor.numel()];
    tensor.copy_data(&mut numbers, tensor.numel());
    numbers
}

/// The names of ranks in a message.
pub(crate) fn ranks(ranks: &[usize]) -> String {
    let numbers: Vec<String> = ranks.iter().map(usize::to_string).collect();
    format!("rank{} {}", if ranks.len() == 1 { "" } else { "s" }, numbers.join(", "))
}

#[cfg(test)]
mod tests {
    use tch::Device;

    use super::check_device;

    #[test]
    fn a_tensor_on_a_gpu_is_an_error_that_says_what_to_do() {
        assert!(check_device("tensor of all_reduce", Device::Cpu).is_ok());
        let error = check_device("tensor of all_reduce", Device::Cuda(1)).unwrap_err().to_string();
        assert_eq!(
            error,
            "tensor of all_reduce: expected a tensor on the CPU (`to_device` moves one; to train on several GPUs, use \
             PyTorch with the Python package figa-loss), got one on Cuda(1)"
        );
    }
}
