//! The head of a language model: from hidden states to logits, and gradients back.

use tch::{Kind, Tensor};

use crate::error::Result;

/// The head of a language model: `logits = softcap(scale * (hidden @ weight^T + bias))`.
///
/// A `&Tensor` converts into a head of this weight alone.
///
/// ```
/// use figa_loss::{LmHead, tch::{Device, Kind, Tensor}};
///
/// let (weight, bias) = (Tensor::zeros([4, 2], (Kind::Float, Device::Cpu)), Tensor::zeros([4], (Kind::Float, Device::Cpu)));
/// let gemma = LmHead::new(&weight).with_softcap(30.0);
/// let granite = LmHead::new(&weight).with_bias(&bias).with_scale(1.0 / 8.0);
/// assert_eq!((gemma.softcap, granite.scale), (Some(30.0), 0.125));
/// ```
#[derive(Debug, Clone, Copy)]
#[non_exhaustive]
pub struct LmHead<'a> {
    /// `[V, H]`: the weight of a linear layer, or the embedding that it is tied to.
    pub weight: &'a Tensor,
    /// `[V]`; `None` by default.
    pub bias: Option<&'a Tensor>,
    /// Multiplies the logits: Cohere's `logit_scale`, `1 / logits_scaling` of Granite; 1 by default.
    pub scale: f64,
    /// `cap * tanh(logits / cap)`, as in Gemma 2; `None` by default.
    pub softcap: Option<f64>,
}

impl<'a> LmHead<'a> {
    /// A head without bias, scale and soft-cap.
    pub const fn new(weight: &'a Tensor) -> Self {
        Self { weight, bias: None, scale: 1.0, softcap: None }
    }

    /// Sets the [`bias`](Self::bias).
    pub const fn with_bias(self, bias: &'a Tensor) -> Self {
        Self { bias: Some(bias), ..self }
    }

    /// Sets the [`scale`](Self::scale).
    pub const fn with_scale(self, scale: f64) -> Self {
        Self { scale, ..self }
    }

    /// Sets the [`softcap`](Self::softcap).
    pub const fn with_softcap(self, softcap: f64) -> Self {
        Self { softcap: Some(softcap), ..self }
    }
}

impl<'a> From<&'a Tensor> for LmHead<'a> {
    fn from(weight: &'a Tensor) -> Self {
        Self::new(weight)
    }
}

impl LmHead<'_> {
    /// Rows `[n, H]` to logits `[n, V]` of the given kind, in memory of their own that nothing in the graph has saved.
    pub(super) fn logits(&self, hidden: &Tensor, kind: Kind) -> Result<Tensor> {
        Ok(self.logits_and_slope(hidden, kind, false)?.0)
    }

    /// The logits and, if `with_slope`, the derivative of the soft-cap at them. It is computed from tanh itself: near
    /// its ends, `1 - tanh^2` of a tanh recomputed from the logits would magnify their rounding.
    pub(super) fn logits_and_slope(
        &self,
        hidden: &Tensor,
        kind: Kind,
        with_slope: bool,
    ) -> Result<(Tensor, Option<Tensor>)> {
        let mut logits = hidden.f_mm(&self.weight.f_tr()?)?;
        if let Some(bias) = self.bias {
            logits = logits.f_add_(bias)?;
        }
        logits = logits.f_to_kind(kind)?;
        if self.scale != 1.0 {
            logits = logits.f_mul_scalar_(self.scale)?;
        }
        let Some(cap) = self.softcap else { return Ok((logits, None)) };
        let tanh = logits.f_div_scalar_(cap)?.f_tanh_()?;
        let slope = with_slope.then(|| tanh.f_square()?.f_neg_()?.f_add_scalar_(1)).transpose()?;
        Ok((tanh.f_mul_scalar(cap)?, slope))
    }

    /// Whether the weight or the bias should get a gradient.
    pub(super) fn is_tracked(&self) -> Result<bool> {
        Ok(is_tracked(self.weight)? || self.bias.map(is_tracked).transpose()?.unwrap_or(false))
    }
}

/// Whether a tensor should get a gradient, which under `no_grad` it should not.
pub(super) fn is_tracked(tensor: &Tensor) -> Result<bool> {
    Ok(tensor.f_alias()?.requires_grad())
}

/// The gradients of a sum over rows with respect to hidden states and head, computed chunk by chunk.
#[derive(Debug)]
pub(super) struct Gradients {
    /// Whether the hidden states get one.
    hidden: bool,
    /// The sums over the chunks so far, for the parameters that get one.
    weight: Option<Sum>,
    bias: Option<Sum>,
}

/// `None` until the first chunk.
type Sum = Option<Tensor>;

impl Gradients {
    /// Those that the hidden rows and the head require.
    pub(super) fn wanted_by(rows: &Tensor, head: &LmHead<'_>) -> Result<Self> {
        let wants = |tensor| Ok::<_, crate::Error>(is_tracked(tensor)?.then_some(None));
        Ok(Self {
            hidden: rows.requires_grad(),
            weight: wants(head.weight)?,
            bias: head.bias.map(wants).transpose()?.flatten(),
        })
    }

    pub(super) fn any(&self) -> bool {
        self.hidden || self.weight.is_some() || self.bias.is_some()
    }

    /// Whether [`add`](Self::add) returns a gradient.
    pub(super) fn for_hidden(&self) -> bool {
        self.hidden
    }

    /// The sums by weight and bias.
    pub(super) fn into_sums(self) -> [Option<Tensor>; 2] {
        [self.weight.flatten(), self.bias.flatten()]
    }

    /// Adds a chunk of hidden rows `[n, H]` whose gradient with respect to the logits is `x [n, V]`, each row times its factor
    /// `[n, 1]`. Returns the gradient with respect to the hidden rows, if it is wanted.
    pub(super) fn add(&mut self, x: &Tensor, factors: &Tensor, hidden: &Tensor, weight: &Tensor) -> Result<Sum> {
        if let Some(sum) = &mut self.bias {
            add_product(sum, &x.f_tr()?, factors)?;
        }
        let kind = x.f_kind()?;
        if kind == hidden.f_kind()? {
            // Scaling the narrow side is cheaper than scaling x.
            if let Some(sum) = &mut self.weight {
                add_product(sum, &x.f_tr()?, &hidden.f_mul(factors)?)?;
            }
            return self.hidden.then(|| Ok(x.f_mm(weight)?.f_mul_(factors)?)).transpose();
        }
        // f16 or bf16 on a GPU: rounded to the dtype of the logits, as autograd does it, and accumulated in f32.
        let x = x.f_mul(factors)?.f_to_kind(hidden.f_kind()?)?;
        if let Some(sum) = &mut self.weight {
            let product = x.f_tr()?.f_mm_dtype(hidden, kind)?;
            *sum = Some(match sum.take() {
                None => product,
                Some(mut sum) => sum.f_add_(&product)?,
            });
        }
        self.hidden.then(|| Ok(x.f_mm_dtype(weight, kind)?)).transpose()
    }
}

fn add_product(sum: &mut Sum, left: &Tensor, right: &Tensor) -> Result<()> {
    *sum = Some(match sum.take() {
        None => left.f_mm(right)?,
        Some(mut sum) => sum.f_addmm_(left, right)?,
    });
    Ok(())
}
