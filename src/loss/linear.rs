//! The loss from hidden states, fused with the language model's head.

use tch::{Device, Kind, Tensor, no_grad_guard};

use super::active::Active;
use super::output::LossOutput;
use super::rows::{Odds, Scores, pieces, surrogate};
use super::{FigaLoss, Reduction, check_defined, check_kind, check_tokens, compute_kind, is_float};
use crate::error::{Error, Result};

/// The FIGA loss of `hidden @ lm_head^T`, with its default configuration, without ever holding all logits.
///
/// Equal to `figa_loss(&hidden.matmul(&lm_head.tr()), labels, weights)`, value and gradients, at a fraction of its time
/// and memory.
///
/// # Shapes
/// * `hidden`: `[B, S, H]`, f16, bf16, f32 or f64, any strides
/// * `lm_head`: `[V, H]`, of the dtype of `hidden`: the weight of a linear layer, or the embedding it is tied to
/// * `labels`: `[B, S]`, int64
/// * `weights`: `[B, S]`, a float type; taken as constants even if they require a gradient
/// * result: a scalar, f32 (f64 for f64), connected to the graphs of `hidden` and `lm_head`
///
/// `hidden` and `lm_head` on one device; `labels` and `weights` there or on the CPU. On the CPU they cost no wait for the
/// device.
///
/// # Errors
/// Those of [`figa_loss`](super::figa_loss).
///
/// # Memory
/// Beyond the gradients of `hidden` and `lm_head`, the logits of one chunk of active rows, see [`FigaLoss::chunk`].
///
/// # Example
/// ```
/// use figa_loss::{fused_linear_figa_loss, tch::{Device, Kind, Tensor}};
///
/// let hidden = Tensor::ones([1, 3, 2], (Kind::Float, Device::Cpu)).set_requires_grad(true);
/// let lm_head = Tensor::zeros([4, 2], (Kind::Float, Device::Cpu)).set_requires_grad(true);
/// let labels = Tensor::from_slice(&[-100i64, 2, 3]).reshape([1, 3]);
/// let weights = Tensor::from_slice(&[0f32, 1.0, -0.5]).reshape([1, 3]);
///
/// // Four equal logits: nll = ln 4 = 1.386 for both tokens, and the second is gated.
/// let loss = fused_linear_figa_loss(&hidden, &lm_head, &labels, &weights)?;
/// assert!((loss.double_value(&[]) - 4f64.ln()).abs() < 1e-6);
/// loss.backward();
/// // p - 1 = -0.75 at the label, p = 0.25 elsewhere, times the hidden state.
/// let expected = Tensor::from_slice(&[0.25f32, 0.25, -0.75, 0.25]);
/// assert!(lm_head.grad().select(1, 0).allclose(&expected, 1e-6, 1e-6, false));
/// # Ok::<(), figa_loss::Error>(())
/// ```
pub fn fused_linear_figa_loss(hidden: &Tensor, lm_head: &Tensor, labels: &Tensor, weights: &Tensor) -> Result<Tensor> {
    Ok(FigaLoss::default().forward_linear(hidden, lm_head, labels, weights)?.loss)
}

/// The head of a language model: `logits = softcap(scale * (hidden @ weight^T + bias))`.
///
/// A `&Tensor` converts into a head that is just this weight.
///
/// ```
/// use figa_loss::{LmHead, tch::{Device, Kind, Tensor}};
///
/// let weight = Tensor::zeros([4, 2], (Kind::Float, Device::Cpu));
/// let gemma = LmHead { softcap: Some(30.0), ..LmHead::from(&weight) };
/// ```
#[derive(Debug, Clone, Copy)]
pub struct LmHead<'a> {
    /// `[V, H]`.
    pub weight: &'a Tensor,
    /// `[V]`, or none.
    pub bias: Option<&'a Tensor>,
    /// The factor of Cohere's and Granite's models; 1 by default.
    pub scale: f64,
    /// `cap * tanh(logits / cap)`, as in Gemma 2; none by default.
    pub softcap: Option<f64>,
}

impl<'a> From<&'a Tensor> for LmHead<'a> {
    fn from(weight: &'a Tensor) -> Self {
        Self { weight, bias: None, scale: 1.0, softcap: None }
    }
}

impl LmHead<'_> {
    /// Rows `[n, H]` to logits `[n, V]` of the given kind, in memory of their own that nothing in the graph has saved.
    fn logits(&self, hidden: &Tensor, kind: Kind) -> Result<Tensor> {
        Ok(self.logits_and_slope(hidden, kind, false)?.0)
    }

    /// The logits and, if `wanted`, the soft-cap's derivative at them: from tanh itself, for near its ends `1 - tanh^2`
    /// magnifies what a detour over the logits would round off.
    fn logits_and_slope(&self, hidden: &Tensor, kind: Kind, wanted: bool) -> Result<(Tensor, Option<Tensor>)> {
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
        let slope = wanted.then(|| tanh.f_square()?.f_neg_()?.f_add_scalar_(1)).transpose()?;
        Ok((tanh.f_mul_scalar(cap)?, slope))
    }
}

/// The gradients of the numerator that are wanted.
#[derive(Debug)]
struct Gradients {
    /// Those by the hidden rows take the place of the rows.
    hidden: bool,
    /// The sum over the chunks, once there is one.
    weight: Option<Option<Tensor>>,
    bias: Option<Option<Tensor>>,
}

impl Gradients {
    fn wanted(&self) -> bool {
        self.hidden || self.weight.is_some() || self.bias.is_some()
    }

    /// Takes in a chunk of hidden rows whose gradient by the logits is `x`, each row times its slope. Returns the
    /// gradient by the rows, if it is wanted.
    fn add(&mut self, x: &Tensor, slopes: &Tensor, hidden: &Tensor, weight: &Tensor) -> Result<Option<Tensor>> {
        if let Some(sum) = &mut self.bias {
            add_product(sum, &x.f_tr()?, slopes)?;
        }
        if x.f_kind()? == hidden.f_kind()? {
            if let Some(sum) = &mut self.weight {
                add_product(sum, &x.f_tr()?, &hidden.f_mul(slopes)?)?;
            }
            return self.hidden.then(|| Ok(x.f_mm(weight)?.f_mul_(slopes)?)).transpose();
        }
        // f16 or bf16 on a GPU: rounded to the dtype of the logits, as autograd has it, and added up in f32.
        let kind = x.f_kind()?;
        let x = x.f_mul(slopes)?.f_to_kind(hidden.f_kind()?)?;
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

fn add_product(sum: &mut Option<Tensor>, left: &Tensor, right: &Tensor) -> Result<()> {
    *sum = Some(match sum.take() {
        None => left.f_mm(right)?,
        Some(mut sum) => sum.f_addmm_(left, right)?,
    });
    Ok(())
}

impl FigaLoss {
    /// The loss of `hidden [B, S, H]` under a head `[V, H]`, `labels [B, S]` and `weights [B, S]`; see
    /// [`fused_linear_figa_loss`] for dtypes and an example, and [`LmHead`] for bias, scale and soft-cap.
    ///
    /// Gradients go to `hidden`, the head's weight and its bias exactly where they require one. The head's gradient is
    /// added up in f32 for f16 and bf16. First derivatives only: the gradient is a constant in the graph.
    ///
    /// # Errors
    /// Those of [`figa_loss`](super::figa_loss), and [`Error::Value`] for a gate, denominator, chunk, scale or soft-cap
    /// outside of its domain.
    ///
    /// # Memory
    /// Beyond the gradients of `hidden` and the head, the logits of one chunk of active rows (f32), a second chunk with
    /// a soft-cap, and for f16 and bf16 the head's gradient in f32, on a CPU also the head. `backward` holds the head's
    /// gradient twice for a moment, when the chunk is gone. [`Reduction::None`] needs the logits of all active rows,
    /// because the gradients of single tokens cannot be added up before `backward`.
    pub fn forward_linear<'a>(
        &self,
        hidden: &Tensor,
        lm_head: impl Into<LmHead<'a>>,
        labels: &Tensor,
        weights: &Tensor,
    ) -> Result<LossOutput> {
        let head = lm_head.into();
        self.validate()?;
        let vocab = check(hidden, &head)?;
        check_tokens(hidden, labels, weights)?;
        let kind = compute_kind(hidden)?;
        let active = Active::select(labels, weights, self.ignore_index, vocab, kind, hidden.device())?;
        // A CPU multiplies f32 no slower than f16 and bf16, and rounds less.
        let product_kind = if hidden.device() == Device::Cpu { kind } else { hidden.f_kind()? };
        let rows = hidden.f_flatten(0, 1)?.f_index_select(0, &active.rows)?.f_to_kind(product_kind)?;
        let weight = head.weight.f_to_kind(product_kind)?;
        let head = LmHead { weight: &weight, ..head };
        if self.reduction == Reduction::None {
            return self.of_rows(&head.logits(&rows, kind)?, &active, None);
        }

        let mut gradients = Gradients {
            hidden: rows.requires_grad(),
            weight: is_tracked(head.weight)?.then_some(None),
            bias: head.bias.map(is_tracked).transpose()?.unwrap_or(false).then_some(None),
        };
        let no_grad = no_grad_guard();
        // Each chunk's gradient takes the place of its rows, which are not needed any more.
        let (hidden, own) = (rows.f_detach()?, rows.f_detach()?.f_to_kind(kind)?);
        let factors = self.factors(&rows, &head, &active, kind)?;
        let mut parts = vec![];
        for (start, len) in pieces(active.rows.size1()?, self.rows_per_chunk(&head)) {
            let part = |tensor: &Tensor| tensor.f_narrow(0, start, len);
            let (mut x, cap_slope) = head.logits_and_slope(&part(&hidden)?, kind, gradients.wanted())?;
            let odds = Odds::take(&mut x, &part(&active.targets)?)?;
            let mut scores = Scores::new(self, &odds, &part(&active.weights)?)?;
            if let Some(factors) = &factors {
                scores.scale(&part(factors)?)?;
            }
            if let Some(cap_slope) = cap_slope {
                let _ = x.f_mul_(&cap_slope)?;
            }
            if gradients.wanted() {
                let slopes = scores.slope.f_unsqueeze(1)?.f_div(&odds.total)?.f_mul_scalar(head.scale)?;
                let (hidden, mut own) = (part(&hidden)?, part(&own)?);
                match live_first(&mut x, &scores.live)? {
                    None => {
                        if let Some(gradient) = gradients.add(&x, &slopes, &hidden, head.weight)? {
                            own.f_copy_(&gradient)?;
                        }
                    }
                    Some(live) => {
                        let of_live = |tensor: &Tensor| tensor.f_index_select(0, &live);
                        let (x, slopes, hidden) =
                            (x.f_narrow(0, 0, live.size1()?)?, of_live(&slopes)?, of_live(&hidden)?);
                        let gradient = gradients.add(&x, &slopes, &hidden, head.weight)?;
                        if let Some(gradient) = gradient {
                            let _ = own.f_zero_()?.f_index_copy_(0, &live, &gradient)?;
                        }
                    }
                }
            }
            parts.push(scores);
        }
        drop(no_grad);

        let scores = Scores::cat(&parts)?;
        let mut connection = Tensor::f_zeros([], (kind, hidden.device()))?;
        let gradients = [
            (Some(&rows), gradients.hidden.then_some(own)),
            (Some(head.weight), gradients.weight.flatten()),
            (head.bias, gradients.bias.flatten()),
        ];
        for (tensor, gradient) in gradients {
            if let (Some(tensor), Some(gradient)) = (tensor, gradient) {
                connection = connection.f_add(&surrogate(tensor, &gradient)?)?;
            }
        }
        LossOutput::new(self, &active, &scores, &scores.value, &connection)
    }

    /// Rows per chunk.
    fn rows_per_chunk(&self, head: &LmHead<'_>) -> i64 {
        let (vocab, width) = (head.weight.size()[0], head.weight.size()[1]);
        self.chunk.unwrap_or_else(|| width.max(LEAST_CHUNK / vocab).max(1))
    }

    /// [`FigaLoss::row_factors`] before the rows themselves are computed: which of them are live is up to those that
    /// the gate might spare.
    fn factors(&self, rows: &Tensor, head: &LmHead<'_>, active: &Active, kind: Kind) -> Result<Option<Tensor>> {
        if self.reduction != Reduction::SequenceMeans {
            return Ok(None);
        }
        let mut live = Tensor::f_ones([active.rows.size1()?], (Kind::Bool, rows.device()))?;
        if self.gate.is_some() {
            let scores = Scores::of_penalised(self, active, self.rows_per_chunk(head), |at| {
                head.logits(&rows.f_index_select(0, at)?, kind)
            })?;
            let _ = live.f_index_copy_(0, &active.penalised, &scores.live)?;
        }
        self.row_factors(active, &live, kind)
    }
}

/// Fewer logits in a chunk keep no processor busy.
const LEAST_CHUNK: i64 = 1 << 22;

/// Moves the rows of `x` that the gate lets pass to the front, where each free place takes the next row from behind:
/// the others have no gradient, and need not be multiplied. Returns which row each of the first ones was; none if all
/// are live, and on a GPU, which would have to be waited for.
fn live_first(x: &mut Tensor, live: &Tensor) -> Result<Option<Tensor>> {
    if x.device() != Device::Cpu {
        return Ok(None);
    }
    let live = Vec::<bool>::try_from(live)?;
    let count = live.iter().filter(|&&live| live).count();
    if count == live.len() {
        return Ok(None);
    }
    let mut order: Vec<i64> = (0..count as i64).collect();
    let mut behind = (count..live.len()).filter(|&row| live[row]);
    for place in (0..count).filter(|&row| !live[row]) {
        let row = behind.next().expect("as many live rows behind as gated ones in front") as i64;
        x.f_get(place as i64)?.f_copy_(&x.f_get(row)?)?;
        order[place] = row;
    }
    Ok(Some(Tensor::f_from_slice(&order)?))
}

/// Whether a gradient should go to `tensor`, which under `no_grad` it should not.
fn is_tracked(tensor: &Tensor) -> Result<bool> {
    Ok(tensor.f_alias()?.requires_grad())
}

/// `V`, if hidden states and head fit each other.
fn check(hidden: &Tensor, head: &LmHead<'_>) -> Result<i64> {
    check_defined("hidden", hidden)?;
    check_defined("lm_head", head.weight)?;
    let width = match *hidden.size() {
        [_, _, width] if width > 0 => width,
        _ => {
            let expected = "[B, S, H] with H > 0".into();
            return Err(Error::Shape { argument: "hidden", expected, actual: hidden.size() });
        }
    };
    let vocab = match *head.weight.size() {
        [vocab, same] if vocab > 0 && same == width => vocab,
        _ => {
            let expected = format!("[V, H] = [V, {width}] with V > 0");
            return Err(Error::Shape { argument: "lm_head", expected, actual: head.weight.size() });
        }
    };
    let mut parameters = vec![("lm_head", head.weight)];
    if let Some(bias) = head.bias {
        check_defined("bias", bias)?;
        if bias.size() != [vocab] {
            let expected = format!("[V] = [{vocab}]");
            return Err(Error::Shape { argument: "bias", expected, actual: bias.size() });
        }
        parameters.push(("bias", bias));
    }
    check_kind("hidden", hidden, "f16, bf16, f32 or f64", is_float)?;
    let (kind, expected) = (hidden.f_kind()?, hidden.device());
    for (argument, tensor) in parameters {
        check_kind(argument, tensor, "that of hidden", |actual| actual == kind)?;
        if tensor.device() != expected {
            return Err(Error::Device { argument, expected, actual: tensor.device() });
        }
    }
    if !(head.scale.is_finite() && head.scale != 0.0) {
        let (expected, actual) = ("a finite number other than 0", head.scale.to_string());
        return Err(Error::Value { argument: "scale", expected, actual });
    }
    match head.softcap {
        Some(cap) if !(cap.is_finite() && cap > 0.0) => {
            Err(Error::Value { argument: "softcap", expected: "a number > 0", actual: cap.to_string() })
        }
        _ => Ok(vocab),
    }
}
