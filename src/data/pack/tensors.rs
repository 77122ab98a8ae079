//! A packed batch as tensors, its attention mask, and the check of a model.

use tch::{Device, Kind, Tensor};

use super::{PackedBatch, pack};
use crate::data::collate::padded;
use crate::data::example::Example;
use crate::error::{Error, Result};
use crate::weights::IGNORE_INDEX;

/// A [`PackedBatch`] for a model on some device.
///
/// Targets stay on the host, where [`Rows::of_targets`](crate::Rows::of_targets) selects the active ones.
///
/// ```
/// use figa_loss::tch::{Device, Kind, Tensor};
/// use figa_loss::{Example, FigaLoss, IGNORE_INDEX, PackedTensors, Rows, TokenLabel::Kept, pack};
///
/// let row = |ids: [u32; 3], weight| {
///     let labels = vec![-100, i64::from(ids[1]), i64::from(ids[2])];
///     Example::new(ids.to_vec(), labels, vec![0.0, 0.0, weight], vec![Kept; 3])
/// };
/// let (original, revised) = (row([7, 1, 2], -0.5)?, row([7, 1, 4], 1.0)?);
/// let batch: PackedTensors = pack([[&original, &revised]], 0, Example::is_active).to_tensors(Device::Cpu)?;
/// assert_eq!(batch.input_ids.size(), [1, 2]);
/// assert_eq!(batch.attention_mask(None)?.size(), [1, 1, 2, 2]);
/// assert_eq!(batch.attention_bias(None, Kind::Float)?.double_value(&[0, 0, 0, 1]), f64::NEG_INFINITY);
/// assert!(!batch.has_branches && batch.inputs()?.attention_mask.is_none());
///
/// // A model would take `batch.inputs()?`.
/// let logits = Tensor::zeros([1, 2, 8], (Kind::Float, Device::Cpu)).set_requires_grad(true);
/// let rows = Rows::of_targets(&batch.labels, &batch.weights, &batch.outputs, &batch.sequences, IGNORE_INDEX)?;
/// FigaLoss::new().on(&logits, &rows)?.loss.backward();
/// # Ok::<(), figa_loss::Error>(())
/// ```
#[derive(Debug)]
#[non_exhaustive]
pub struct PackedTensors {
    /// int64 `[B, S]`, on the device.
    pub input_ids: Tensor,
    /// int64 `[B, S]`, on the device.
    pub position_ids: Tensor,
    /// int64 `[B, S]`, on the device: see [`PackedBatch::visible_until`].
    pub visible_until: Tensor,
    /// See [`PackedBatch::has_branches`].
    pub has_branches: bool,
    /// int64 `[N]`, on the host.
    pub labels: Tensor,
    /// float32 `[N]`, on the host.
    pub weights: Tensor,
    /// int64 `[N]`, on the host.
    pub outputs: Tensor,
    /// int64 `[N]`, on the host.
    pub sequences: Tensor,
}

impl PackedBatch {
    /// Copies the batch to tensors, the model's input to `device`.
    ///
    /// # Errors
    /// [`Error::Value`] if a list does not have `batch_size * seq_len` entries, [`Error::Torch`] if the device is out of memory.
    pub fn to_tensors(&self, device: Device) -> Result<PackedTensors> {
        let size = [self.batch_size, self.seq_len];
        Ok(PackedTensors {
            input_ids: padded("batch.input_ids", &self.input_ids, size, device)?,
            position_ids: padded("batch.position_ids", &self.position_ids, size, device)?,
            visible_until: padded("batch.visible_until", &self.visible_until, size, device)?,
            has_branches: self.has_branches,
            labels: Tensor::f_from_slice(&self.labels)?,
            weights: Tensor::f_from_slice(&self.weights)?,
            outputs: Tensor::f_from_slice(&self.outputs)?,
            sequences: Tensor::f_from_slice(&self.sequences)?,
        })
    }
}

impl PackedTensors {
    /// What a model with full attention in all layers takes.
    ///
    /// # Errors
    /// [`Error::Torch`] if the device is out of memory.
    pub fn inputs(&self) -> Result<PackedInputs> {
        Ok(PackedInputs {
            input_ids: self.input_ids.shallow_clone(),
            position_ids: self.position_ids.shallow_clone(),
            attention_mask: self.has_branches.then(|| self.attention_mask(None)).transpose()?,
        })
    }

    /// The attention mask, bool `[B, 1, S, S]` on the device: true where a query (third dimension) attends to a key (fourth
    /// dimension). Every query attends to itself, padding to nothing else.
    ///
    /// With a sliding `window`, a query attends to its own position and the `window - 1` positions in front of it. Models whose
    /// layers alternate take both masks. Without branches and windows, attention with `is_causal` gives the same.
    ///
    /// # Errors
    /// [`Error::Value`] for a window below 1, [`Error::Torch`] if the device is out of memory.
    pub fn attention_mask(&self, window: Option<i64>) -> Result<Tensor> {
        let columns = Tensor::f_arange(self.visible_until.size()[1], (Kind::Int64, self.visible_until.device()))?;
        let query = columns.f_unsqueeze(1)?;
        let visible =
            query.f_ge_tensor(&columns)?.f_logical_and(&query.f_lt_tensor(&self.visible_until.f_unsqueeze(1)?)?)?;
        let visible = match window {
            None => visible,
            Some(window @ ..=0) => {
                let (argument, expected) = ("window", "at least 1 position");
                return Err(Error::Value { argument, expected, actual: window.to_string() });
            }
            Some(window) => {
                let distance = self.position_ids.f_unsqueeze(2)?.f_sub(&self.position_ids.f_unsqueeze(1)?)?;
                visible.f_logical_and(&distance.f_lt(window)?)?
            }
        };
        Ok(visible.f_unsqueeze(1)?)
    }

    /// The mask as a number that is added to the attention scores: 0 where the
    /// [`attention_mask`](Self::attention_mask) is true, minus infinity elsewhere.
    ///
    /// # Errors
    /// Those of [`attention_mask`](Self::attention_mask).
    pub fn attention_bias(&self, window: Option<i64>, kind: Kind) -> Result<Tensor> {
        let hidden = self.attention_mask(window)?.f_logical_not()?;
        let bias = Tensor::f_zeros(hidden.size(), (kind, hidden.device()))?;
        Ok(bias.f_masked_fill(&hidden, f64::NEG_INFINITY)?)
    }
}

/// What a model takes. Tensors are on its device.
#[derive(Debug)]
#[non_exhaustive]
pub struct PackedInputs {
    /// int64 `[B, S]`.
    pub input_ids: Tensor,
    /// int64 `[B, S]`.
    pub position_ids: Tensor,
    /// bool `[B, 1, S, S]`; `None` for causal attention, where no row has branches.
    pub attention_mask: Option<Tensor>,
}

/// How far a model's outputs for packed answers are from those for rows of their own: the largest difference, divided by the
/// largest output. Rounding gives about 1e-6 in f32 and 1e-2 in bf16; more says that the model does not support packing.
///
/// The model is called twice, and returns logits or hidden states, `[B, S, _]`. It takes [`PackedTensors::inputs`], or masks of
/// its own.
///
/// ```
/// use figa_loss::tch::{Device, Kind, Tensor};
/// use figa_loss::{Example, PackedTensors, TokenLabel::Kept, packing_error};
///
/// # let row = |ids: [u32; 3]| {
/// #     Example::new(ids.to_vec(), ids.map(i64::from).to_vec(), vec![1.0; 3], vec![Kept; 3])
/// # };
/// let (original, revised) = (row([7, 1, 2])?, row([7, 4, 2])?);
/// let embedding = Tensor::randn([8, 4], (Kind::Float, Device::Cpu));
/// // A model that adds up the tokens it sees, but does not use the mask.
/// let sums = |batch: &PackedTensors| Ok(Tensor::embedding(&embedding, &batch.input_ids, -1, false, false).cumsum(1, Kind::Float));
/// assert!(packing_error([[&original, &revised]], Device::Cpu, sums)? > 0.1);
/// # Ok::<(), figa_loss::Error>(())
/// ```
///
/// # Errors
/// Those of the model; [`Error::Value`] if no token has a label; [`Error::Torch`] for outputs of other shapes.
pub fn packing_error<'a, G>(
    groups: impl IntoIterator<Item = G>,
    device: Device,
    model: impl Fn(&PackedTensors) -> Result<Tensor>,
) -> Result<f64>
where
    G: IntoIterator<Item = &'a Example>,
{
    const PAD_ID: u32 = 0;
    let groups: Vec<Vec<&Example>> = groups.into_iter().map(|group| group.into_iter().collect()).collect();
    let all = |_: &Example, _| true;
    let packed = pack(groups.iter().map(|group| group.iter().copied()), PAD_ID, all).to_tensors(device)?;
    let each = pack(groups.iter().flatten().map(|&example| [example]), PAD_ID, all).to_tensors(device)?;
    let outputs = |batch: &PackedTensors| {
        let outputs = model(batch)?.f_detach()?.f_flatten(0, 1)?.f_to_kind(Kind::Double)?;
        let places = batch.outputs.f_masked_select(&batch.labels.f_ne(IGNORE_INDEX)?)?;
        Ok::<_, Error>(outputs.f_index_select(0, &places.f_to_device(device)?)?)
    };
    let (expected, actual) = (outputs(&each)?, outputs(&packed)?);
    if expected.numel() == 0 {
        let actual = "no token with a label".into();
        return Err(Error::Value { argument: "groups", expected: "answers", actual });
    }
    let largest = |tensor: Tensor| Ok::<_, Error>(f64::try_from(tensor.f_abs()?.f_max()?)?);
    Ok(largest(actual.f_sub(&expected)?)? / largest(expected)?.max(f64::MIN_POSITIVE))
}
