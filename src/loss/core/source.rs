//! What a model gives, and the logits of some positions of it.

use tch::{Device, Kind, Tensor, no_grad_guard};

use super::head::LmHead;
use super::inputs::{check_hidden, check_logits};
use super::odds::rows_at_a_time;
use super::rows::OutputShape;
use crate::error::{Error, Result};

/// A chunk with fewer logits does not keep the processor busy.
const LEAST_CHUNK_LOGITS: i64 = 1 << 22;

/// What a model gives for a loss: logits, or hidden states and the head that turns them into logits.
///
/// A `&Tensor` converts into logits, a pair of hidden states and a head into hidden states. Their positions are those of
/// the labels, or those that [`Rows::of_targets`](crate::Rows::of_targets) names: `[B, S, _]` or `[N, _]`.
///
/// ```
/// use figa_loss::{LmHead, ModelOutput, tch::{Device, Kind, Tensor}};
///
/// let (hidden, weight) = (Tensor::zeros([1, 4, 2], (Kind::Float, Device::Cpu)), Tensor::zeros([8, 2], (Kind::Float, Device::Cpu)));
/// let fused: ModelOutput = ModelOutput::hidden(&hidden, &weight);
/// let gemma: ModelOutput = (&hidden, LmHead::new(&weight).with_softcap(30.0)).into();
/// let logits = hidden.matmul(&weight.tr());
/// let plain: ModelOutput = ModelOutput::logits(&logits);
/// # let _ = (fused, gemma, plain);
/// ```
#[derive(Debug, Clone, Copy)]
pub struct ModelOutput<'a>(Given<'a>);

#[derive(Debug, Clone, Copy)]
enum Given<'a> {
    Logits(&'a Tensor),
    Hidden(&'a Tensor, LmHead<'a>),
}

impl<'a> ModelOutput<'a> {
    /// The device of the logits or hidden states.
    pub(super) fn device(&self) -> Device {
        let (Given::Logits(tensor) | Given::Hidden(tensor, _)) = self.0;
        if tensor.defined() { tensor.device() } else { Device::Cpu }
    }

    /// Logits `[B, S, V]` or `[N, V]`.
    pub const fn logits(logits: &'a Tensor) -> Self {
        Self(Given::Logits(logits))
    }

    /// Hidden states `[B, S, H]` or `[N, H]` and a head: the logits of the active rows are computed chunk by chunk.
    pub fn hidden(hidden: &'a Tensor, head: impl Into<LmHead<'a>>) -> Self {
        Self(Given::Hidden(hidden, head.into()))
    }
}

impl<'a> From<&'a Tensor> for ModelOutput<'a> {
    fn from(logits: &'a Tensor) -> Self {
        Self::logits(logits)
    }
}

impl<'a, H: Into<LmHead<'a>>> From<(&'a Tensor, H)> for ModelOutput<'a> {
    fn from((hidden, head): (&'a Tensor, H)) -> Self {
        Self::hidden(hidden, head)
    }
}

/// A checked [`ModelOutput`], with its positions in one dimension.
#[derive(Debug)]
pub(super) enum Source<'a> {
    /// Logits `[P, V]` of `P` positions.
    Logits(Tensor),
    /// Hidden states `[P, H]`, and the head with its weight in the dtype of the products.
    Hidden { hidden: Tensor, weight: Tensor, head: LmHead<'a> },
}

impl<'a> Source<'a> {
    /// Checks the output of a model for the positions of some rows. Products are in the dtype of autocast, if it is on.
    pub(super) fn new(output: ModelOutput<'a>, shape: OutputShape<'_>, autocast: Option<Kind>) -> Result<Self> {
        let flat = |tensor: &Tensor| match tensor.dim() {
            2 => Ok::<_, Error>(tensor.shallow_clone()),
            _ => Ok(tensor.f_flatten(0, 1)?),
        };
        match output.0 {
            Given::Logits(logits) => {
                check_logits("logits", logits, shape)?;
                Ok(Self::Logits(flat(logits)?))
            }
            Given::Hidden(hidden, head) => {
                check_hidden(hidden, &head, shape, autocast.is_some())?;
                let kind = match (autocast, hidden.f_kind()?) {
                    // Autocast leaves f64 as it is.
                    (_, Kind::Double) => Kind::Double,
                    (Some(kind), _) => kind,
                    // A CPU multiplies f32 no slower than f16 and bf16, and rounds less.
                    (None, _) if hidden.device() == Device::Cpu => Kind::Float,
                    (None, kind) => kind,
                };
                Ok(Self::Hidden { hidden: flat(hidden)?, weight: head.weight.f_to_kind(kind)?, head })
            }
        }
    }

    fn input(&self) -> &Tensor {
        match self {
            Self::Logits(logits) => logits,
            Self::Hidden { hidden, .. } => hidden,
        }
    }

    pub(super) fn vocab(&self) -> Result<i64> {
        Ok(match self {
            Self::Logits(logits) => logits.size2()?.1,
            Self::Hidden { weight, .. } => weight.size2()?.0,
        })
    }

    pub(super) fn device(&self) -> Device {
        self.input().device()
    }

    /// Losses are computed in f32 at least.
    pub(super) fn compute_kind(&self) -> Result<Kind> {
        Ok(if self.input().f_kind()? == Kind::Double { Kind::Double } else { Kind::Float })
    }

    /// Whether these are logits that require a gradient.
    pub(super) fn is_tracked_logits(&self) -> bool {
        matches!(self, Self::Logits(logits) if logits.requires_grad())
    }

    /// The head whose weight has the dtype of the products.
    pub(super) fn head(&self) -> Option<LmHead<'_>> {
        match self {
            Self::Hidden { weight, head, .. } => Some(LmHead { weight, ..*head }),
            Self::Logits(_) => None,
        }
    }

    /// The input at some positions, in memory of its own.
    pub(super) fn select(&self, positions: &Tensor) -> Result<Tensor> {
        let input = self.input().f_index_select(0, positions)?;
        match self {
            Self::Logits(_) => Ok(input),
            Self::Hidden { weight, .. } => Ok(input.f_to_kind(weight.f_kind()?)?),
        }
    }

    /// The logits of some positions, in memory of their own and without a graph.
    pub(super) fn constant_logits(&self, positions: &Tensor, kind: Kind) -> Result<Tensor> {
        let _no_grad = no_grad_guard();
        let input = self.select(positions)?;
        match self.head() {
            None => Ok(input.f_to_kind(kind)?),
            Some(head) => head.logits(&input, kind),
        }
    }

    /// How many rows of logits to hold at a time; `chosen` is for those that are computed from hidden states.
    pub(super) fn rows_at_a_time(&self, chosen: Option<i64>) -> Result<i64> {
        match self {
            Self::Logits(logits) => Ok(rows_at_a_time(logits.device(), logits.size2()?.1)),
            Self::Hidden { weight, .. } => {
                let (vocab, width) = weight.size2()?;
                // As many rows as the head is wide take the memory of its gradient, which `backward` needs anyway.
                Ok(chosen.unwrap_or_else(|| width.max(LEAST_CHUNK_LOGITS / vocab).max(1)))
            }
        }
    }
}
