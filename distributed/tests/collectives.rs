//! Every operation against its definition, for each dtype.

mod common;

use common::in_processes;
use tch::{Device, Kind, Tensor};
use tch_c10d::{ProcessGroup, ReduceOp, Result};

const KINDS: [Kind; 6] = [Kind::Float, Kind::BFloat16, Kind::Half, Kind::Double, Kind::Int64, Kind::Uint8];
const SHAPE: [i64; 2] = [3, 5];

/// The tensor of a process, in f64. Small integers, so that all dtypes hold their sums exactly.
fn values(rank: usize, count: usize) -> Vec<f64> {
    (0..count).map(|index| ((index * 7 + rank * 13) % 11 + rank) as f64).collect()
}

fn tensor(kind: Kind, values: &[f64], shape: &[i64]) -> Tensor {
    Tensor::from_slice(values).to_kind(kind).reshape(shape)
}

fn read(tensor: &Tensor) -> Vec<f64> {
    Vec::try_from(tensor.to_kind(Kind::Double).view(-1)).unwrap()
}

/// What an operation over the tensors of all processes makes of each element.
fn reduced(group: &ProcessGroup, op: ReduceOp, count: usize) -> Vec<f64> {
    let all: Vec<Vec<f64>> = (0..group.world_size()).map(|rank| values(rank, count)).collect();
    let element = |index: usize| {
        let column = all.iter().map(|values| values[index]);
        match op {
            ReduceOp::Sum => column.sum(),
            ReduceOp::Mean => column.sum::<f64>() / group.world_size() as f64,
            ReduceOp::Max => column.fold(f64::MIN, f64::max),
        }
    };
    (0..count).map(element).collect()
}

fn ops(kind: Kind) -> Vec<ReduceOp> {
    let is_integer = matches!(kind, Kind::Int64 | Kind::Uint8);
    if is_integer { vec![ReduceOp::Sum, ReduceOp::Max] } else { vec![ReduceOp::Sum, ReduceOp::Mean, ReduceOp::Max] }
}

#[test]
fn all_reduce_reduces_every_element() {
    in_processes("all_reduce_reduces_every_element", &[1, 2, 4], |group| {
        for kind in KINDS {
            for op in ops(kind) {
                let mut tensor = tensor(kind, &values(group.rank(), 15), &SHAPE);
                group.all_reduce(&mut tensor, op).unwrap().wait().unwrap();
                assert_eq!(tensor.size(), SHAPE);
                assert_eq!(read(&tensor), reduced(group, op, 15), "{kind:?} {op:?}");
            }
        }
        // Gloo divides large tensors among its steps.
        let mut large = tensor(Kind::Float, &values(group.rank(), 300_001), &[300_001]);
        group.all_reduce(&mut large, ReduceOp::Sum).unwrap().wait().unwrap();
        assert_eq!(read(&large), reduced(group, ReduceOp::Sum, 300_001));
    });
}

#[test]
fn the_mean_of_large_numbers_does_not_overflow() {
    in_processes("the_mean_of_large_numbers_does_not_overflow", &[4], |group| {
        let mut tensor = tensor(Kind::Half, &[60_000.0], &[1]);
        group.all_reduce(&mut tensor, ReduceOp::Mean).unwrap().wait().unwrap();
        assert_eq!(read(&tensor), [60_000.0]);
    });
}

#[test]
fn broadcast_copies_the_tensor_of_the_root() {
    in_processes("broadcast_copies_the_tensor_of_the_root", &[1, 2, 4], |group| {
        for kind in KINDS {
            for root in 0..group.world_size() {
                let mut tensor = tensor(kind, &values(group.rank(), 15), &SHAPE);
                group.broadcast(&mut tensor, root).unwrap().wait().unwrap();
                assert_eq!(read(&tensor), values(root, 15), "{kind:?} of {root}");
            }
        }
    });
}

#[test]
fn all_gather_lines_up_the_tensors() {
    in_processes("all_gather_lines_up_the_tensors", &[1, 2, 4], |group| {
        let world_size = group.world_size();
        let expected: Vec<f64> = (0..world_size).flat_map(|rank| values(rank, 15)).collect();
        for kind in KINDS {
            let input = tensor(kind, &values(group.rank(), 15), &SHAPE);
            let mut output = tensor(kind, &vec![0.0; 15 * world_size], &[3 * world_size as i64, 5]);
            group.all_gather(&mut output, &input).unwrap().wait().unwrap();
            assert_eq!(read(&output), expected, "{kind:?}");
            assert_eq!(read(&input), values(group.rank(), 15));
        }
    });
}

#[test]
fn reduce_scatter_gives_each_process_a_part() {
    in_processes("reduce_scatter_gives_each_process_a_part", &[1, 2, 4], |group| {
        let (rank, count) = (group.rank(), 15 * group.world_size());
        for kind in KINDS {
            for op in ops(kind) {
                let mut input = tensor(kind, &values(rank, count), &[count as i64]);
                let mut output = tensor(kind, &[0.0; 15], &SHAPE);
                group.reduce_scatter(&mut output, &mut input, op).unwrap().wait().unwrap();
                let expected = &reduced(group, op, count)[15 * rank..15 * (rank + 1)];
                assert_eq!(read(&output), expected, "{kind:?} {op:?}");
            }
        }
    });
}

#[test]
fn tensors_are_sent_around_a_ring() {
    in_processes("tensors_are_sent_around_a_ring", &[2, 4], |group| {
        let (rank, world_size) = (group.rank(), group.world_size());
        let (next, previous) = ((rank + 1) % world_size, (rank + world_size - 1) % world_size);
        for kind in KINDS {
            let sent = tensor(kind, &values(rank, 15), &SHAPE);
            let mut received = tensor(kind, &[0.0; 15], &SHAPE);
            // `send` waits for `receive`, so one process begins with it.
            if rank == 0 {
                group.send(&sent, next).unwrap();
            }
            group.receive(&mut received, previous).unwrap();
            if rank != 0 {
                group.send(&sent, next).unwrap();
            }
            assert_eq!(read(&received), values(previous, 15), "{kind:?}");
        }
    });
}

#[test]
fn operations_run_at_the_same_time() {
    in_processes("operations_run_at_the_same_time", &[2], |group| {
        let mut tensors: Vec<Tensor> =
            (1..=5).map(|count| tensor(Kind::Float, &values(group.rank(), count), &[count as i64])).collect();
        let begun: Result<Vec<_>> = tensors.iter_mut().map(|tensor| group.all_reduce(tensor, ReduceOp::Sum)).collect();
        let mut begun = begun.unwrap();
        // One that is dropped ends too.
        begun.pop();
        begun.into_iter().for_each(|work| work.wait().unwrap());
        for (tensor, count) in tensors.iter().zip(1..) {
            assert_eq!(read(tensor), reduced(group, ReduceOp::Sum, count));
        }
    });
}

#[test]
fn a_process_may_make_several_groups() {
    in_processes("a_process_may_make_several_groups", &[2], |first| {
        let mut rendezvous = tch_c10d::Rendezvous::from_env().unwrap().unwrap();
        rendezvous.timeout = std::time::Duration::from_secs(100);
        let second = ProcessGroup::connect(&rendezvous).unwrap();
        for group in [first, &second, first] {
            let mut tensor = tensor(Kind::Int64, &[1.0], &[1]);
            group.all_reduce(&mut tensor, ReduceOp::Sum).unwrap().wait().unwrap();
            assert_eq!(read(&tensor), [2.0]);
            group.barrier().unwrap();
        }
    });
}

#[test]
fn the_barrier_waits_for_all() {
    in_processes("the_barrier_waits_for_all", &[2, 4, 5], |group| {
        group.barrier().unwrap();
        for late in 0..group.world_size() {
            let start = std::time::Instant::now();
            let delay = std::time::Duration::from_millis(300);
            if group.rank() == late {
                std::thread::sleep(delay);
            }
            group.barrier().unwrap();
            // The last one began that much later than it has left the barrier before, which is about when the others did.
            assert!(start.elapsed() > delay / 2, "{late}: {:?}", start.elapsed());
        }
    });
}

#[test]
fn a_call_is_compared_with_those_of_all() {
    in_processes("a_call_is_compared_with_those_of_all", &[2, 3, 5], |group| {
        for other in 0..group.world_size() {
            let length = |rank| if rank == other { 2 } else { 3 };
            let mut tensor = Tensor::zeros([length(group.rank())], (Kind::Float, Device::Cpu));
            let error = group.all_reduce(&mut tensor, ReduceOp::Sum).unwrap_err().to_string();
            let first = (0..group.world_size()).find(|&rank| length(rank) != length(group.rank())).unwrap();
            let expected = format!("rank {first} calls all_reduce of f32 [{}]", length(first));
            assert!(error.contains(&expected), "{error}");
        }
    });
}

/// The errors of one process, which the others do not see: nothing was sent.
#[test]
fn mistakes_are_errors() {
    in_processes("mistakes_are_errors", &[2], |group| {
        let error = |result: Result<tch_c10d::Work>| result.map(drop).unwrap_err().to_string();
        let zeros = |shape: &[i64], kind| Tensor::zeros(shape, (kind, Device::Cpu));
        let ok = zeros(&[4], Kind::Float);
        assert_eq!(
            error(group.all_reduce(&mut zeros(&[2], Kind::Bool), ReduceOp::Sum)),
            "tensor of all_reduce: expected f32, bf16, f16, f64, i64 or u8, got Bool"
        );
        assert_eq!(
            error(group.all_reduce(&mut zeros(&[2, 3], Kind::Float).tr(), ReduceOp::Sum)),
            "tensor of all_reduce: expected a contiguous tensor (`contiguous` makes one), got another layout"
        );
        assert_eq!(
            error(group.all_reduce(&mut Tensor::new(), ReduceOp::Sum)),
            "tensor of all_reduce: expected a tensor, got an undefined one"
        );
        assert_eq!(
            error(group.all_reduce(&mut zeros(&[1], Kind::Int64), ReduceOp::Mean)),
            "op: expected Sum or Max for integers, got Mean"
        );
        assert_eq!(error(group.broadcast(&mut ok.copy(), 2)), "root: expected a rank below 2, got 2");
        assert_eq!(
            error(group.all_gather(&mut zeros(&[7], Kind::Float), &ok)),
            "output of all_gather: expected 8 elements, Float, Cpu, got 7 elements, Float, Cpu"
        );
        assert_eq!(
            error(group.reduce_scatter(&mut zeros(&[4], Kind::Half), &mut zeros(&[8], Kind::Float), ReduceOp::Sum)),
            "input of reduce_scatter: expected 8 elements, Half, Cpu, got 8 elements, Float, Cpu"
        );
        let to_itself = group.send(&ok, group.rank()).unwrap_err().to_string();
        assert_eq!(to_itself, format!("to: expected another rank, got {}", group.rank()));
        group.barrier().unwrap();
    });
}
