//! The head of a language model: from hidden states to logits, and gradients back.

use tch::{Device, Kind, Tensor, with_grad};

use super::measure::{Factors, Gradient};
use super::surrogate::surrogate;
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
    /// Whether there is one chunk.
    is_single: bool,
    /// A scalar of value 0 with the gradient of the weight, in place of its sum.
    deferred: Option<Tensor>,
}

/// `None` until the first chunk.
type Sum = Option<Tensor>;

impl Gradients {
    /// Those that the hidden rows and the head require, in one chunk or in several.
    pub(super) fn wanted_by(rows: &Tensor, head: &LmHead<'_>, is_single: bool) -> Result<Self> {
        let wants = |tensor| Ok::<_, crate::Error>(is_tracked(tensor)?.then_some(None));
        Ok(Self {
            hidden: rows.requires_grad(),
            weight: wants(head.weight)?,
            bias: head.bias.map(wants).transpose()?.flatten(),
            is_single,
            deferred: None,
        })
    }

    pub(super) fn any(&self) -> bool {
        self.hidden || self.weight.is_some() || self.bias.is_some()
    }

    /// Whether [`add`](Self::add) returns a gradient.
    pub(super) fn for_hidden(&self) -> bool {
        self.hidden
    }

    /// The sums by weight and bias, and a scalar that has the gradient of the weight if the sum is missing.
    pub(super) fn into_sums(self) -> ([Option<Tensor>; 2], Option<Tensor>) {
        ([self.weight.flatten(), self.bias.flatten()], self.deferred)
    }

    /// Adds a chunk of hidden rows `[n, H]` whose gradient with respect to the products of hidden states and weight is given,
    /// up to a scale. Returns the gradient with respect to the hidden rows, if it is wanted.
    pub(super) fn add(
        &mut self,
        Gradient { x, factors }: &Gradient,
        scale: f64,
        hidden: &Tensor,
        weight: &Tensor,
    ) -> Result<Option<Tensor>> {
        let kind = x.f_kind()?;
        let product = match factors {
            Some(factors) => factors.product()?.f_mul_scalar(scale)?,
            None => Tensor::f_full([x.size()[0], 1], scale, (kind, x.device()))?,
        };
        if let Some(sum) = &mut self.bias {
            add_product(sum, &x.f_tr()?, &product)?;
        }
        if kind != hidden.f_kind()? {
            return self.add_rounded(x, factors.as_ref(), scale, hidden, weight);
        }
        // Scaling the narrow side is cheaper than scaling x.
        let scaled = hidden.f_mul(&product)?;
        if self.is_single && self.hidden && self.weight.is_some() {
            // The gradient of the weight, x^T scaled, is left to autograd: that of `x weight`, which is needed anyway, times
            // `scaled`. Computed here, it would be copied in the backward pass.
            let product_with_weight = with_grad(|| x.f_mm(weight))?;
            self.deferred = Some(with_grad(|| surrogate(&product_with_weight, &scaled))?);
            return Ok(Some(product_with_weight.f_detach()?.f_mul(&product)?));
        }
        if let Some(sum) = &mut self.weight {
            add_product(sum, &x.f_tr()?, &scaled)?;
        }
        self.hidden.then(|| Ok(x.f_mm(weight)?.f_mul_(&product)?)).transpose()
    }

    /// The same for f16 and bf16: products of rounded matrices, summed in f32. What is rounded has entries of about 1, so
    /// that none of them over- or underflows: rows are normalised, and slopes are relative to the greatest.
    fn add_rounded(
        &mut self,
        x: &Tensor,
        factors: Option<&Factors>,
        scale: f64,
        hidden: &Tensor,
        weight: &Tensor,
    ) -> Result<Option<Tensor>> {
        let (kind, rounded) = (x.f_kind()?, hidden.f_kind()?);
        let nonzero = |size: Tensor| Ok::<_, crate::Error>(size.f_where_self(&size.f_ne(0)?, &size.f_ones_like()?)?);
        let (normal, slope) = match factors {
            Some(Factors { normal, slope }) => (normal.shallow_clone(), slope.f_mul_scalar(scale)?),
            None => {
                let size = nonzero(x.f_amax([1], true)?.f_maximum(&x.f_amin([1], true)?.f_neg()?)?)?;
                (size.f_reciprocal()?, size.f_mul_scalar(scale)?)
            }
        };
        // Softmax entries of a large vocabulary would be subnormal in f16, whose greatest number is 65504.
        let lift = if rounded == Kind::Half { f64::from(1 << 14) } else { 1.0 };
        let x = x.f_mul(&normal.f_mul_scalar(lift)?)?.f_to_kind(rounded)?;
        if let Some(sum) = &mut self.weight
            && slope.numel() > 0
        {
            let greatest = nonzero(slope.f_abs()?.f_max()?)?;
            let scaled = hidden.f_mul(&slope.f_div(&greatest)?)?.f_to_kind(rounded)?;
            let mut product = mixed_product(&x.f_tr()?, &scaled, kind)?;
            let _ = product.f_mul_(&greatest.f_div_scalar(lift)?)?;
            *sum = Some(match sum.take() {
                None => product,
                Some(mut sum) => sum.f_add_(&product)?,
            });
        }
        let of_hidden = || Ok(mixed_product(&x, weight, kind)?.f_mul_(&slope.f_div_scalar(lift)?)?);
        self.hidden.then(of_hidden).transpose()
    }
}

/// The product of rounded matrices, summed and returned in another kind. A CPU has no such product.
fn mixed_product(left: &Tensor, right: &Tensor, kind: Kind) -> Result<Tensor> {
    if left.device() == Device::Cpu {
        return Ok(left.f_to_kind(kind)?.f_mm(&right.f_to_kind(kind)?)?);
    }
    Ok(left.f_mm_dtype(right, kind)?)
}

fn add_product(sum: &mut Sum, left: &Tensor, right: &Tensor) -> Result<()> {
    *sum = Some(match sum.take() {
        None => left.f_mm(right)?,
        Some(mut sum) => sum.f_addmm_(left, right)?,
    });
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Rows of f16 and bf16 whose slopes, softmax entries and sums would all be out of the range of f16.
    #[test]
    fn rounded_gradients_neither_over_nor_underflow() {
        tch::manual_seed(5);
        let float = (Kind::Float, Device::Cpu);
        const ROWS: i64 = 6;
        for kind in [Kind::Half, Kind::BFloat16] {
            for factors in [true, false] {
                let total = 1e5;
                let x = Tensor::rand([ROWS, 50], float) * if factors { total * 1e-7 } else { 1e-8 };
                let hidden = Tensor::randn([ROWS, 8], float).to_kind(kind);
                let weight = Tensor::randn([50, 8], float).to_kind(kind).set_requires_grad(true);
                let column = |number: f64| Tensor::full([ROWS, 1], number, float);
                let factors = factors.then(|| Factors { normal: column(1.0 / total), slope: column(1e-7) });
                let rows = hidden.shallow_clone().set_requires_grad(true);
                let mut gradients = Gradients::wanted_by(&rows, &LmHead::new(&weight), false).unwrap();
                let _no_grad = tch::no_grad_guard();
                let dx = &x * factors.as_ref().map_or(column(1.0), |factors| factors.product().unwrap()) * 3.0;
                let ours =
                    gradients.add(&Gradient { x, factors }, 3.0, &hidden.detach(), &weight.detach()).unwrap().unwrap();
                let ([of_weight, _], _) = gradients.into_sums();
                let near = |ours: &Tensor, exact: Tensor| {
                    let error = f64::try_from((ours - &exact).norm() / exact.norm()).unwrap();
                    assert!(error < 1e-2, "{kind:?}: {error}");
                };
                near(&ours, dx.mm(&weight.to_kind(Kind::Float)));
                near(&of_weight.unwrap(), dx.tr().mm(&hidden.to_kind(Kind::Float)));
            }
        }
    }
    #[test]
    fn a_rounded_gradient_of_no_rows_is_0() {
        for kind in [Kind::Half, Kind::BFloat16] {
            let empty = |columns: i64, kind: Kind| Tensor::zeros([0, columns], (kind, Device::Cpu));
            let weight = Tensor::ones([5, 3], (kind, Device::Cpu)).set_requires_grad(true);
            let mut gradients = Gradients::wanted_by(&empty(3, kind), &LmHead::new(&weight), true).unwrap();
            let _no_grad = tch::no_grad_guard();
            let gradient = Gradient { x: empty(5, Kind::Float), factors: None };
            assert!(gradients.add(&gradient, 1.0, &empty(3, kind), &weight.detach()).unwrap().is_none());
            let ([of_weight, _], _) = gradients.into_sums();
            assert!(of_weight.is_none());
        }
    }
}
