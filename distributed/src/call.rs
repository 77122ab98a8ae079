//! What a process is about to do with the others, in numbers that all processes compare first.

use std::fmt;

use tch::{Kind, Tensor};

/// The dtypes that can be sent, with their names.
pub(crate) const KINDS: [(Kind, &str); 6] = [
    (Kind::Float, "f32"),
    (Kind::BFloat16, "bf16"),
    (Kind::Half, "f16"),
    (Kind::Double, "f64"),
    (Kind::Int64, "i64"),
    (Kind::Uint8, "u8"),
];

/// The operations.
const OPERATIONS: [&str; 10] = [
    "all_reduce",
    "broadcast",
    "all_gather",
    "reduce_scatter",
    "send",
    "receive",
    "barrier",
    "Reducer::new",
    "Reducer::backward",
    "connect",
];

/// Shapes of more dimensions are compared by their number of elements.
const DIMENSIONS: usize = 8;

/// What is compared of a tensor.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Sent {
    /// Its dtype: a place in [`KINDS`].
    kind: usize,
    shape: Vec<i64>,
}

/// A call of an operation.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Call {
    pub(crate) operation: &'static str,
    /// What else must be the same: how to reduce, the root, a hash of parameters.
    pub(crate) argument: i64,
    /// The tensor, if there is one.
    pub(crate) tensor: Option<Sent>,
}

impl Call {
    /// How many numbers describe a call.
    pub(crate) const NUMBERS: usize = 4 + DIMENSIONS;

    /// Without a tensor.
    pub(crate) fn new(operation: &'static str, argument: i64) -> Self {
        debug_assert!(OPERATIONS.contains(&operation));
        Self { operation, argument, tensor: None }
    }

    /// With a tensor, whose dtype is one of [`KINDS`].
    pub(crate) fn with(operation: &'static str, argument: i64, tensor: &Tensor) -> Self {
        let mut shape = tensor.size();
        if shape.len() > DIMENSIONS {
            shape = vec![tensor.numel() as i64];
        }
        let kind = KINDS.iter().position(|(kind, _)| *kind == tensor.kind());
        let sent = kind.map(|kind| Sent { kind, shape });
        Self { tensor: sent, ..Self::new(operation, argument) }
    }

    pub(crate) fn numbers(&self) -> [i64; Self::NUMBERS] {
        let mut numbers = [-1; Self::NUMBERS];
        let operation = OPERATIONS.iter().position(|operation| *operation == self.operation);
        numbers[0] = operation.map_or(-1, |operation| operation as i64);
        numbers[1] = self.argument;
        if let Some(Sent { kind, shape }) = &self.tensor {
            numbers[2..4].copy_from_slice(&[*kind as i64, shape.len() as i64]);
            numbers[4..4 + shape.len()].copy_from_slice(shape);
        }
        numbers
    }

    /// The call that has these numbers; `None` if another version of this crate has sent them.
    pub(crate) fn from_numbers(numbers: &[i64]) -> Option<Self> {
        let at = |index: usize| usize::try_from(*numbers.get(index)?).ok();
        let operation = *OPERATIONS.get(at(0)?)?;
        let sent = |kind: usize| {
            let shape = numbers.get(4..4 + at(3)?)?.to_vec();
            Some(Sent { kind, shape })
        };
        let tensor = at(2).filter(|kind| *kind < KINDS.len()).and_then(sent);
        Some(Self { operation, argument: *numbers.get(1)?, tensor })
    }
}

impl fmt::Display for Call {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(formatter, "{}", self.operation)?;
        if let Some(Sent { kind, shape }) = &self.tensor {
            write!(formatter, " of {} {shape:?}", KINDS[*kind].1)?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::{Call, KINDS, OPERATIONS, Sent};

    #[test]
    fn a_call_is_read_from_its_numbers() {
        for operation in OPERATIONS {
            let mut calls = vec![Call::new(operation, 7)];
            for kind in 0..KINDS.len() {
                for shape in [vec![], vec![3], vec![2; 8]] {
                    let sent = Sent { kind, shape };
                    calls.push(Call { tensor: Some(sent), ..Call::new(operation, -5) });
                }
            }
            for call in calls {
                assert_eq!(Call::from_numbers(&call.numbers()), Some(call));
            }
        }
        assert_eq!(Call::from_numbers(&[99; Call::NUMBERS]), None);
        assert_eq!(Call::from_numbers(&[]), None);
    }

    #[test]
    fn a_call_is_displayed_with_its_tensor() {
        assert_eq!(Call::new("barrier", 0).to_string(), "barrier");
        let sent = Sent { kind: 1, shape: vec![2, 3] };
        let call = Call { tensor: Some(sent), ..Call::new("all_reduce", 0) };
        assert_eq!(call.to_string(), "all_reduce of bf16 [2, 3]");
    }
}
