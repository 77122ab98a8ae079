//! Packed answers: losses, gradients and statistics are those of rows of their own.
#![cfg(all(feature = "data", feature = "torch"))]

use figa_loss::tch::{Device, Kind, Tensor, manual_seed, no_grad};
use figa_loss::{
    Distillation, Dpo, EncodedPair, Error, Example, FigaLoss, IGNORE_INDEX, LossSummary, Objective, PackedBatch,
    PackedInputs, PackedTensors, Pairs, PreferenceBatch, PreferenceLoss, Reduction, Reference, Rows, TokenLabel,
    TokenLoss, WeightedNll, collate, log_probs, pack, packing_error,
};
use rand::rngs::StdRng;
use rand::{Rng, SeedableRng};

/// Few ids, so that answers often begin alike.
const IDS: u32 = 3;
const PAD_ID: u32 = 7;
const VOCAB: i64 = 8;
const WIDTH: i64 = 12;
const HEADS: i64 = 3;
const LAYERS: usize = 2;

/// A transformer with rotary positions.
struct Model {
    embedding: Tensor,
    layers: Vec<[Tensor; 4]>,
    head: Tensor,
}

impl Model {
    fn new(seed: i64) -> Self {
        manual_seed(seed);
        let random = |size: [i64; 2]| (Tensor::randn(size, (Kind::Double, Device::Cpu)) * 0.5).set_requires_grad(true);
        let layer = || [[3 * WIDTH, WIDTH], [WIDTH, WIDTH], [2 * WIDTH, WIDTH], [WIDTH, 2 * WIDTH]].map(random);
        Self {
            embedding: random([VOCAB, WIDTH]),
            layers: (0..LAYERS).map(|_| layer()).collect(),
            head: random([VOCAB, WIDTH]),
        }
    }

    fn to_kind(&self, kind: Kind) -> Self {
        let cast = |tensor: &Tensor| tensor.detach().to_kind(kind).set_requires_grad(true);
        let layers = self.layers.iter().map(|layer| layer.each_ref().map(cast)).collect();
        Self { embedding: cast(&self.embedding), layers, head: cast(&self.head) }
    }

    fn parameters(&self) -> Vec<&Tensor> {
        self.layers.iter().flatten().chain([&self.embedding, &self.head]).collect()
    }

    /// The hidden states; without a mask, attention is causal.
    fn forward(&self, input_ids: &Tensor, position_ids: &Tensor, mask: Option<&Tensor>) -> Tensor {
        let (batch, seq, dim) = (input_ids.size()[0], input_ids.size()[1], WIDTH / HEADS);
        let kind = self.head.kind();
        let frequencies = Tensor::from_slice(&[1.0, 0.1]);
        let angles = (position_ids.unsqueeze(-1).to_kind(Kind::Double) * frequencies).repeat([1, 1, 2]).unsqueeze(1);
        let (cos, sin) = (angles.cos().to_kind(kind), angles.sin().to_kind(kind));
        let rotate = |x: &Tensor| {
            let halves = x.chunk(2, -1);
            x * &cos + Tensor::cat(&[-&halves[1], halves[0].shallow_clone()], -1) * &sin
        };
        let causal = Tensor::ones([seq, seq], (Kind::Bool, Device::Cpu)).tril(0);
        let hidden = mask.unwrap_or(&causal).logical_not();
        let mut x = Tensor::embedding(&self.embedding, input_ids, -1, false, false);
        for [qkv, out, up, down] in &self.layers {
            let qkv = x.matmul(&qkv.tr()).reshape([batch, seq, 3 * HEADS, dim]).transpose(1, 2).chunk(3, 1);
            let scores = rotate(&qkv[0]).matmul(&rotate(&qkv[1]).transpose(2, 3)) / (dim as f64).sqrt();
            let attention = scores.masked_fill(&hidden, f64::NEG_INFINITY).softmax(-1, kind);
            let mixed = attention.matmul(&qkv[2]).transpose(1, 2).reshape([batch, seq, WIDTH]);
            x = &x + mixed.matmul(&out.tr());
            x = &x + x.matmul(&up.tr()).tanh().matmul(&down.tr());
        }
        x
    }

    fn packed(&self, batch: &PackedTensors) -> Tensor {
        let mask = batch.has_branches.then(|| batch.attention_mask(None).unwrap());
        self.forward(&batch.input_ids, &batch.position_ids, mask.as_ref())
    }

    /// Hidden states of rows of their own, and what the loss needs of them.
    fn separate(&self, examples: &[&Example]) -> (Tensor, Rows, i64) {
        let batch = collate(examples.iter().copied(), PAD_ID).to_tensors(Device::Cpu).unwrap();
        let seq = batch.input_ids.size()[1];
        let position_ids = Tensor::arange(seq, (Kind::Int64, Device::Cpu)).unsqueeze(0);
        let rows = Rows::of_batch(&batch.labels, &batch.weights, IGNORE_INDEX).unwrap();
        (self.forward(&batch.input_ids, &position_ids, None), rows, seq)
    }

    /// The gradients of a loss, and none afterwards.
    fn gradients(&self, loss: &Tensor) -> Vec<Tensor> {
        loss.backward();
        let gradient = |parameter: &&Tensor| {
            let gradient = parameter.grad();
            let found = if gradient.defined() { gradient.copy() } else { parameter.zeros_like() };
            let _ = if gradient.defined() { parameter.grad().zero_() } else { found.shallow_clone() };
            found.to_kind(Kind::Double)
        };
        self.parameters().iter().map(gradient).collect()
    }
}

fn rows_of(batch: &PackedTensors) -> Rows {
    Rows::of_targets(&batch.labels, &batch.weights, &batch.outputs, &batch.sequences, IGNORE_INDEX).unwrap()
}

/// A row in which every token has a label and the weight 1.
fn example(ids: &[u32]) -> Example {
    let labels = ids.iter().map(|&id| id.into()).collect();
    Example::new(ids.to_vec(), labels, vec![1.0; ids.len()], vec![TokenLabel::Kept; ids.len()]).unwrap()
}

/// Groups of answers that share a prompt, and often more.
fn groups(seed: u64, answers: std::ops::RangeInclusive<usize>) -> Vec<Vec<Example>> {
    let mut rng = StdRng::seed_from_u64(seed);
    let mut group = || {
        let prompt: Vec<u32> = (0..rng.random_range(1..4)).map(|_| rng.random_range(0..IDS)).collect();
        let answer = |rng: &mut StdRng| {
            let len = rng.random_range(0..7);
            let answer: Vec<u32> = (0..len).map(|_| rng.random_range(0..IDS)).collect();
            let weights = (0..len).map(|_| [0.0, 0.0, 0.0, 1.0, -0.5, 0.3][rng.random_range(0..6)]);
            let ids = [&prompt[..], &answer].concat();
            let labels =
                ids.iter().enumerate().map(|(at, &id)| if at < prompt.len() { IGNORE_INDEX } else { id.into() });
            let weights = vec![0.0; prompt.len()].into_iter().chain(weights).collect();
            let token_labels = vec![TokenLabel::Kept; ids.len()];
            Example::new(ids.clone(), labels.collect(), weights, token_labels).unwrap()
        };
        (0..rng.random_range(answers.clone())).map(|_| answer(&mut rng)).collect()
    };
    (0..4).map(|_| group()).collect()
}

fn packed(groups: &[Vec<Example>], is_needed: impl Fn(&Example, usize) -> bool) -> PackedTensors {
    pack(groups, PAD_ID, is_needed).to_tensors(Device::Cpu).unwrap()
}

#[track_caller]
fn assert_close(a: &Tensor, b: &Tensor, tolerance: f64) {
    let difference = if a.numel() == 0 { 0.0 } else { (a - b).abs().max().double_value(&[]) };
    let size = if b.numel() == 0 { 0.0 } else { b.abs().max().double_value(&[]) };
    assert!(difference <= tolerance * size.max(1.0), "{difference} of {size}");
}

const REDUCTIONS: [Reduction; 6] = [
    Reduction::ActiveTokens,
    Reduction::LabelledTokens,
    Reduction::AbsWeights,
    Reduction::Sum,
    Reduction::SequenceMeans,
    Reduction::External(7.0),
];

fn compare<O: Objective>(loss: TokenLoss<O>, model: &Model, groups: &[Vec<Example>]) {
    let batch = packed(groups, Example::is_active);
    let examples: Vec<&Example> = groups.iter().flatten().collect();
    let (hidden, rows, _) = model.separate(&examples);
    let separate = loss.on((&hidden, &model.head), &rows).unwrap();
    let hidden = model.packed(&batch);
    let together = loss.on((&hidden, &model.head), &rows_of(&batch)).unwrap();
    assert_close(&together.loss, &separate.loss, 1e-12);
    assert_close(&together.denominator, &separate.denominator, 0.0);
    let (a, b) = (together.stats.read().unwrap(), separate.stats.read().unwrap());
    let counts = |s: &LossSummary| [s.rewarded.count, s.penalised.count, s.gated.count, s.eos.count, s.unweighted];
    assert_eq!(counts(&a), counts(&b));
    let means = |s: &LossSummary| [s.rewarded, s.penalised, s.gated].map(|class| class.mean_nll.unwrap_or(0.0));
    assert_close(&Tensor::from_slice(&means(&a)), &Tensor::from_slice(&means(&b)), 1e-12);
    for (a, b) in model.gradients(&together.loss).iter().zip(model.gradients(&separate.loss)) {
        assert_close(a, &b, 1e-12);
    }
}

#[test]
fn losses_and_gradients_are_those_of_separate_rows() {
    for seed in 0..60 {
        let (model, groups) = (Model::new(seed as i64), groups(seed, 1..=8));
        if groups.iter().flatten().all(|example| !example.active().any(|active| active)) {
            continue;
        }
        for reduction in REDUCTIONS {
            compare(FigaLoss::new().with_reduction(reduction), &model, &groups);
        }
        compare(TokenLoss::of(WeightedNll::new()).with_eos_id(1), &model, &groups);
    }
}

#[test]
fn losses_of_single_tokens_are_in_the_order_of_the_targets() {
    let (model, groups) = (Model::new(1), groups(1, 2..=5));
    let loss = TokenLoss::of(WeightedNll::new()).with_reduction(Reduction::None);
    let (batch, examples) = (packed(&groups, Example::is_active), groups.iter().flatten().collect::<Vec<_>>());
    let (hidden, rows, seq) = model.separate(&examples);
    let separate = loss.on((&hidden, &model.head), &rows).unwrap().loss.reshape([-1]);
    let labelled: Vec<i64> = (0..)
        .zip(&examples)
        .flat_map(|(row, example)| {
            (1..example.len()).filter(|&at| example.labels()[at] != IGNORE_INDEX).map(move |at| row * seq + at as i64)
        })
        .collect();
    let together = loss.on((&model.packed(&batch), &model.head), &rows_of(&batch)).unwrap().loss;
    let together = together.masked_select(&batch.labels.ne(IGNORE_INDEX));
    assert_close(&together, &separate.index_select(0, &Tensor::from_slice(&labelled)), 1e-12);
}

#[test]
fn losses_of_pairs_are_those_of_separate_rows() {
    for seed in 0..30 {
        let (model, reference, groups) = (Model::new(seed as i64), Model::new(100), groups(seed, 2..=2));
        let (pairs, batch) = (Pairs::alternating(groups.len() as i64), packed(&groups, Example::is_active));
        let examples: Vec<&Example> = groups.iter().flatten().collect();
        for skip in [false, true] {
            let mut loss = Dpo::new();
            loss.skip_common_prefix = skip;
            let run = |hidden: &Tensor, reference_hidden: &Tensor, rows: &Rows| {
                let reference = log_probs((reference_hidden, &reference.head), rows).unwrap();
                let batch = PreferenceBatch::new(rows, &pairs).with_reference(&reference);
                loss.on((hidden, &model.head), batch).unwrap().loss
            };
            let (hidden, rows, _) = model.separate(&examples);
            let separate = run(&hidden, &reference.separate(&examples).0, &rows);
            let together = run(&model.packed(&batch), &reference.packed(&batch), &rows_of(&batch));
            assert_close(&together, &separate, 1e-12);
            for (a, b) in model.gradients(&together).iter().zip(model.gradients(&separate)) {
                assert_close(a, &b, 1e-12);
            }
        }
    }
}

/// An anchor acts on tokens without a weight: they are needed, too.
#[test]
fn other_tokens_can_be_needed() {
    let (model, reference, groups) = (Model::new(2), Model::new(3), groups(5, 2..=3));
    let anchored = |example: &Example| example.clone().with_weights(vec![1.0; example.len()]).unwrap();
    let anchored: Vec<Vec<Example>> = groups.iter().map(|group| group.iter().map(anchored).collect()).collect();
    let mut batch = packed(&groups, |_, _| true);
    batch.weights = packed(&anchored, Example::is_active).weights;
    let examples: Vec<&Example> = anchored.iter().flatten().collect();
    let (hidden, rows, _) = model.separate(&examples);
    let loss = |hidden: &Tensor, teacher: &Tensor, rows: &Rows| {
        let teacher = Reference::new((teacher, &reference.head));
        TokenLoss::of(Distillation::new(teacher)).on((hidden, &model.head), rows).unwrap().loss
    };
    let separate = loss(&hidden, &reference.separate(&examples).0, &rows);
    let together = loss(&model.packed(&batch), &reference.packed(&batch), &rows_of(&batch));
    assert_close(&together, &separate, 1e-12);
}

/// Sums of the errors against f64, over many batches.
#[test]
fn packing_loses_no_precision() {
    for (kind, slack) in [(Kind::Float, 1e-6), (Kind::BFloat16, 1e-2)] {
        let (mut packed_error, mut separate_error) = (0.0, 0.0);
        for seed in 0..40 {
            let (truth, groups) = (Model::new(seed as i64), groups(seed, 2..=4));
            let model = truth.to_kind(kind);
            let examples: Vec<&Example> = groups.iter().flatten().collect();
            let batch = packed(&groups, Example::is_active);
            let loss = |model: &Model, hidden: &Tensor, rows: &Rows| {
                let loss = TokenLoss::of(WeightedNll::new()).on((hidden, &model.head), rows).unwrap().loss;
                Tensor::cat(&model.gradients(&loss).iter().map(|g| g.reshape([-1])).collect::<Vec<_>>(), 0)
            };
            let (hidden, rows, _) = truth.separate(&examples);
            let expected = loss(&truth, &hidden, &rows);
            let error = |gradient: Tensor| (gradient - &expected).norm().double_value(&[]);
            let (hidden, rows, _) = model.separate(&examples);
            separate_error += error(loss(&model, &hidden, &rows));
            packed_error += error(loss(&model, &model.packed(&batch), &rows_of(&batch)));
        }
        assert!(packed_error <= 1.05 * separate_error + slack, "{kind:?}: {packed_error} against {separate_error}");
        assert!(separate_error > 0.0);
    }
}

#[test]
fn every_entry_of_the_mask_matters() {
    // No answer has a token twice, as attention does not tell equal values apart. The second row has padding.
    let answers = [&[0, 1, 2, 3, 0][..], &[0, 1, 2, 4, 0], &[0, 1, 5, 3, 6, 0], &[2, 1, 0], &[2, 1, 3]];
    let (first, second) = answers.split_at(3);
    let groups = [first, second].map(|group| group.iter().map(|ids| example(ids)).collect::<Vec<_>>());
    let (model, batch) = (Model::new(4), packed(&groups, |_, _| true));
    let mask = batch.attention_mask(None).unwrap();
    let right = no_grad(|| model.packed(&batch));
    let [rows, seq] = [mask.size()[0], mask.size()[2]];
    let mut tried = 0;
    for (row, query, key) in (0..rows).flat_map(|r| (0..seq).flat_map(move |q| (0..=q).map(move |k| (r, q, k)))) {
        // The prompt alone is at position 0, in the first column.
        let is_padding = query > 0 && batch.position_ids.int64_value(&[row, query]) == 0;
        if query == key || is_padding {
            continue;
        }
        let wrong = mask.copy();
        let entry = wrong.get(row).get(0).get(query).get(key).logical_not();
        wrong.get(row).get(0).get(query).get(key).copy_(&entry);
        let hidden = no_grad(|| model.forward(&batch.input_ids, &batch.position_ids, Some(&wrong)));
        assert!((hidden - &right).abs().max().double_value(&[]) > 1e-9, "{row} {query} {key}");
        tried += 1;
    }
    assert_eq!(tried, 28 + 1);
}

#[test]
fn a_window_is_measured_in_positions() {
    // Columns 0 1 | 2 3 | 4 5: the third branch continues at position 2.
    let group = vec![example(&[1, 2, 3, 4, 0]), example(&[1, 2, 5, 6, 0])];
    let batch = packed(&[group], |_, _| true);
    let mask = |window| Vec::<bool>::try_from(batch.attention_mask(window).unwrap().reshape([-1])).unwrap();
    let query = |mask: &[bool], at: usize| (0..6).filter(|key| mask[6 * at + key]).collect::<Vec<_>>();
    assert_eq!(query(&mask(None), 5), [0, 1, 4, 5]);
    assert_eq!(query(&mask(Some(3)), 5), [1, 4, 5]);
    assert_eq!(query(&mask(Some(2)), 4), [1, 4]);
    assert_eq!(query(&mask(Some(1)), 4), [4]);
    let bias = batch.attention_bias(Some(3), Kind::Float).unwrap().exp().eq(1.0).reshape([-1]);
    assert_eq!(Vec::<bool>::try_from(bias).unwrap(), mask(Some(3)));
    let error = batch.attention_mask(Some(0)).unwrap_err();
    assert_eq!(error.to_string(), "window: expected at least 1 position, got 0");
}

#[test]
fn a_model_can_be_checked() {
    let (model, groups) = (Model::new(6), groups(11, 2..=4));
    let check = |forward: &dyn Fn(&PackedInputs) -> Tensor| {
        packing_error(&groups, Device::Cpu, |batch| Ok(forward(&batch.inputs()?))).unwrap()
    };
    let right =
        |inputs: &PackedInputs| model.forward(&inputs.input_ids, &inputs.position_ids, inputs.attention_mask.as_ref());
    assert!(check(&right) < 1e-12);
    let no_mask = |inputs: &PackedInputs| model.forward(&inputs.input_ids, &inputs.position_ids, None);
    assert!(check(&no_mask) > 1e-3);
    let no_positions = |inputs: &PackedInputs| {
        let columns = Tensor::arange(inputs.input_ids.size()[1], (Kind::Int64, Device::Cpu)).unsqueeze(0);
        model.forward(&inputs.input_ids, &columns, inputs.attention_mask.as_ref())
    };
    assert!(check(&no_positions) > 1e-3);
    let none: [[&Example; 0]; 0] = [];
    assert!(matches!(packing_error(none, Device::Cpu, |batch| Ok(right(&batch.inputs()?))), Err(Error::Value { .. })));
}

#[test]
fn pairs_share_what_they_begin_with() {
    let example = |ids: &[u32], weights: &[f32]| {
        let labels = ids.iter().enumerate().map(|(at, &id)| if at < 2 { IGNORE_INDEX } else { id.into() }).collect();
        Example::new(ids.to_vec(), labels, weights.to_vec(), vec![TokenLabel::Kept; ids.len()]).unwrap()
    };
    let original = example(&[1, 2, 3, 4, 5, 6], &[0.0, 0.0, 0.0, -0.5, 0.0, 0.0]);
    let revised = example(&[1, 2, 3, 7, 8, 6], &[0.0, 0.0, 0.0, 1.0, 1.0, 0.0]);
    let pair = EncodedPair::new(original, revised);
    let equal = EncodedPair::new(example(&[1, 2, 3], &[0.0; 3]), example(&[1, 2, 3], &[0.0; 3]));
    let batch = pack([&pair, &equal].map(EncodedPair::rows), PAD_ID, Example::is_active);
    // The prompt, 3, and 7, which predicts the 8.
    assert_eq!((batch.batch_size, batch.seq_len, batch.has_branches), (1, 4, false));
    assert_eq!(batch.input_ids, [1, 2, 3, 7]);
    // Targets are those of the separate rows, also behind the end and in pairs without a row.
    assert_eq!(batch.labels, [3, 4, 5, 6, 3, 7, 8, 6, 3, 3]);
    assert_eq!(batch.outputs, [-1, 2, -1, -1, -1, 2, 3, -1, -1, -1]);
    assert_eq!(batch.sequences, [0, 0, 0, 0, 1, 1, 1, 1, 2, 3]);
    assert_eq!(batch.tokens, [2, 3, 4, 5, 2, 3, 4, 5, 2, 2]);
    let whole: PackedBatch = pack([pair.rows()], PAD_ID, |_, _| true);
    assert!(whole.has_branches);
    assert_eq!(whole.input_ids, [1, 2, 3, 4, 5, 7, 8]);
    assert_eq!(whole.visible_until, [7, 7, 7, 5, 5, 7, 7]);
    assert_eq!(whole.position_ids, [0, 1, 2, 3, 4, 3, 4]);
    assert_eq!(pack::<Example, [&Example; 0]>([], PAD_ID, Example::is_active).batch_size, 0);
}

#[test]
fn outputs_are_checked() {
    let (labels, weights) = (Tensor::from_slice(&[1i64, 2]), Tensor::from_slice(&[1f32, 1.0]));
    let sequences = Tensor::from_slice(&[0i64, 0]);
    let rows = |outputs: [i64; 2]| Rows::of_targets(&labels, &weights, &Tensor::from_slice(&outputs), &sequences, -100);
    let error = rows([0, -1]).unwrap_err();
    assert_eq!(error.to_string(), "outputs: expected a position for each active token, got -1 at [1]");
    let logits = Tensor::zeros([1, 3, 4], (Kind::Float, Device::Cpu));
    assert!(FigaLoss::new().on(&logits, &rows([2, 2]).unwrap()).is_ok());
    let error = FigaLoss::new().on(&logits, &rows([0, 3]).unwrap()).unwrap_err();
    assert_eq!(
        error.to_string(),
        "logits: expected shape [B, S, V] or [N, V] with at least 4 positions, as outputs says, and V > 0, got [1, 3, 4]"
    );
}
