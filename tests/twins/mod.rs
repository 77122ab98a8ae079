//! The losses of the family in their plainest form: formulas on all rows' log-probabilities, by autograd.

use figa_loss::tch::{Kind, Tensor};
use figa_loss::{
    Asft, CandidateUnlikelihood, Chord, Cispo, Cpo, Dft, Distillation, Divergence, Dpo, Dro, Eaft, Focal, Grpo,
    IGNORE_INDEX, ImportanceSampling, Ipo, ModelOutput, Needs, Npo, Objective, Orpo, Pairs, PreferenceBatch,
    PreferenceLoss, Ratio, Reduction, Reference, Result, Rlmec, Rollout, Rows, Sapo, SimNpo, SimPo, Tail, Tdpo,
    TokenLoss, TopKDistillation, Unlikelihood, WeightedNll, rows_loss,
};

use crate::Data;

/// The rows of a batch, in their order, with all their log-probabilities.
pub struct Dense {
    /// `[n, V]`.
    pub log_p: Tensor,
    pub weights: Tensor,
    labels: Tensor,
    /// Where each row's token is in the flattened batch.
    places: Tensor,
    sequences: Tensor,
    shape: Vec<i64>,
    /// The dtype of the inputs.
    given: Kind,
    /// That of the loss.
    kind: Kind,
}

impl Dense {
    pub fn new(logits: &Tensor, data: &Data, given: Kind) -> Self {
        let kind = if given == Kind::Double { Kind::Double } else { Kind::Float };
        let steps = data.labels.size()[1];
        let active = data.labels.ne(IGNORE_INDEX).logical_and(&data.weights.ne(0.0));
        let _ = active.narrow(1, 0, 1).fill_(0);
        let places = active.flatten(0, 1).nonzero().squeeze_dim(1);
        let at = |tensor: &Tensor| tensor.flatten(0, 1).index_select(0, &places);
        let rows = logits.flatten(0, 1).index_select(0, &(&places - 1));
        Self {
            log_p: rows.to_kind(kind).log_softmax(-1, kind),
            weights: at(&data.weights).to_kind(kind),
            labels: at(&data.labels),
            sequences: places.divide_scalar_mode(steps, "floor"),
            shape: data.labels.size(),
            places,
            given,
            kind,
        }
    }

    pub fn rows(&self) -> i64 {
        self.weights.size()[0]
    }

    pub fn scatter(&self, values: &Tensor) -> Tensor {
        let zeros = Tensor::zeros([self.shape.iter().product::<i64>()], (values.kind(), values.device()));
        zeros.index_add(0, &self.places, values).reshape(&*self.shape)
    }

    /// The sum of each sequence.
    pub fn sums(&self, values: &Tensor) -> Tensor {
        Tensor::zeros([self.shape[0]], (values.kind(), values.device())).index_add(0, &self.sequences, values)
    }

    fn at(&self, tensor: &Tensor) -> Tensor {
        let taken = tensor.flatten(0, 1).index_select(0, &self.places);
        if taken.is_floating_point() { taken.to_kind(self.kind) } else { taken }
    }

    fn logp(&self) -> Tensor {
        self.log_p.gather(1, &self.labels.unsqueeze(1), false).squeeze_dim(1)
    }

    fn teacher(&self, data: &Data) -> Tensor {
        let given = |tensor: &Tensor| tensor.to_kind(self.given);
        let logits = given(&data.teacher_hidden).matmul(&given(&data.teacher_weight).tr()).flatten(0, 1);
        logits.index_select(0, &(&self.places - 1)).to_kind(self.kind)
    }

    fn entropy(&self) -> Tensor {
        -sum(&(self.log_p.exp() * &self.log_p))
    }
}

fn sum(tensor: &Tensor) -> Tensor {
    tensor.sum_dim_intlist(1, false, None)
}

fn kl(a: &Tensor, b: &Tensor) -> Tensor {
    sum(&(a.exp() * (a - b)))
}

/// What a twin computes.
pub enum Twin {
    /// What each row adds.
    Rows(Tensor),
    Loss(Tensor),
}

/// Reduction, rows of a chunk, dtype.
pub type Settings = (Reduction, Option<i64>, Kind);
type Ours = Box<dyn Fn(ModelOutput<'_>, &Rows, &Data, Settings) -> Result<Tensor>>;
type Plain = Box<dyn Fn(&Dense, &Data) -> Twin>;

pub struct Loss {
    pub name: &'static str,
    pub ours: Ours,
    pub twin: Plain,
    pub accepts_signed: bool,
    /// Whether all reductions apply.
    pub reduces: bool,
}

fn with(
    loss: TokenLoss<impl Objective>,
    (reduction, chunk_rows, _): Settings,
    output: ModelOutput<'_>,
    rows: &Rows,
) -> Result<Tensor> {
    let mut loss = loss.with_reduction(reduction);
    loss.chunk_rows = chunk_rows;
    Ok(loss.on(output, rows)?.loss)
}

fn token(
    name: &'static str,
    loss: impl Objective + Copy + 'static,
    twin: impl Fn(&Dense, &Data) -> Tensor + 'static,
) -> Loss {
    Loss {
        name,
        ours: Box::new(move |output, rows, _, settings| with(TokenLoss::of(loss), settings, output, rows)),
        twin: Box::new(move |dense, data| Twin::Rows(twin(dense, data) * &dense.weights)),
        accepts_signed: true,
        reduces: true,
    }
}

fn rollout(data: &Data) -> Rollout<'_> {
    Rollout::new(&data.old, &data.advantages).with_reference(&data.reference, 0.04)
}

/// A policy loss, whose twin gets the log-ratio and the advantages, with the KL term.
macro_rules! policy {
    ($name:expr, $loss:expr, $ratio:expr, $twin:expr) => {
        Loss {
            name: $name,
            ours: Box::new(|output, rows, data, settings| {
                with($loss.on_rollout(rollout(data).with_ratio($ratio)), settings, output, rows)
            }),
            twin: Box::new(|dense, data| {
                let logp = dense.logp();
                let mut log_ratio = &logp - dense.at(&data.old);
                if $ratio == Ratio::Sequence {
                    let size = dense.weights.abs();
                    let means = dense.sums(&(&log_ratio * &size)) / dense.sums(&size);
                    log_ratio = means.index_select(0, &dense.sequences);
                }
                let d = &logp - dense.at(&data.reference);
                let k3 = (-&d).exp() + &d - 1.0;
                let twin: fn(Tensor, Tensor, Tensor) -> Tensor = $twin;
                Twin::Rows((twin(logp, log_ratio, dense.at(&data.advantages)) + k3 * 0.04) * &dense.weights)
            }),
            accepts_signed: true,
            reduces: $ratio == Ratio::Token,
        }
    };
}

/// What the twins of preference losses get, for chosen and rejected answers: `L`, `D`, sizes and divergences.
struct Sums {
    logp: [Tensor; 2],
    gain: [Tensor; 2],
    mean: [Tensor; 2],
    mean_gain: [Tensor; 2],
    kl: [Tensor; 2],
    nll: Tensor,
}

impl Sums {
    fn new(dense: &Dense, data: &Data) -> Self {
        let (logp, size) = (dense.logp() * &dense.weights, dense.sums(&dense.weights.abs()));
        let gain = dense.sums(&((dense.logp() - dense.at(&data.reference)) * &dense.weights));
        let sums = dense.sums(&logp);
        let kl = dense.sums(&kl(&dense.teacher(data).log_softmax(-1, dense.kind), &dense.log_p));
        // Sequences 0 and 2 are rejected, 1 and 3 chosen.
        let sides = |values: &Tensor| [1, 0].map(|first| values.slice(0, first, None, 2));
        let nll = -sides(&sums)[0].sum(dense.kind) / sides(&size)[0].sum(dense.kind);
        Self {
            mean: sides(&(&sums / &size)),
            mean_gain: sides(&(&gain / &size)),
            logp: sides(&sums),
            gain: sides(&gain),
            kl: sides(&kl),
            nll,
        }
    }
}

fn difference([chosen, rejected]: &[Tensor; 2]) -> Tensor {
    chosen - rejected
}

fn preference(
    name: &'static str,
    loss: impl PreferenceLoss + Copy + 'static,
    twin: impl Fn(&Sums) -> Tensor + 'static,
) -> Loss {
    Loss {
        name,
        ours: Box::new(move |output, rows, data, settings| preference_loss(&loss, output, rows, data, settings)),
        twin: Box::new(move |dense, data| Twin::Loss(twin(&Sums::new(dense, data)))),
        accepts_signed: true,
        reduces: false,
    }
}

fn preference_loss(
    loss: &impl PreferenceLoss,
    output: ModelOutput<'_>,
    rows: &Rows,
    data: &Data,
    (_, chunk_rows, _): Settings,
) -> Result<Tensor> {
    let pairs = Pairs::alternating(rows.sequences() / 2);
    let batch = PreferenceBatch::new(rows, &pairs).with_reference(&data.reference);
    Ok(loss.on(output, chunk_rows.map_or(batch, |rows| batch.with_chunk_rows(rows)))?.loss)
}

/// A loss with a teacher, whose twin gets the log-probabilities of teacher and student.
fn teacher(name: &'static str, divergence: Divergence, temperature: f64, twin: fn(&Tensor, &Tensor) -> Tensor) -> Loss {
    Loss {
        name,
        ours: Box::new(move |output, rows, data, settings| {
            let (hidden, weight) = (data.teacher_hidden.to_kind(settings.2), data.teacher_weight.to_kind(settings.2));
            let mut reference = Reference::new((&hidden, &weight));
            (reference.divergence, reference.temperature) = (divergence, temperature);
            with(TokenLoss::of(Distillation::new(reference)), settings, output, rows)
        }),
        twin: Box::new(move |dense, data| {
            let t = (dense.teacher(data) / temperature).log_softmax(-1, dense.kind);
            let p = (&dense.log_p / temperature).log_softmax(-1, dense.kind);
            Twin::Rows(twin(&t, &p) * &dense.weights)
        }),
        accepts_signed: true,
        reduces: true,
    }
}

fn top_k(name: &'static str, tail: Tail, twin: fn(Tensor, Tensor) -> Tensor) -> Loss {
    Loss {
        name,
        ours: Box::new(move |output, rows, data, settings| {
            let mut loss = TopKDistillation::new(&data.top.0, &data.top.1);
            loss.tail = tail;
            with(TokenLoss::of(loss), settings, output, rows)
        }),
        twin: Box::new(move |dense, data| {
            let p = dense.log_p.gather(1, &dense.at(&data.top.0), false);
            Twin::Rows(twin(dense.at(&data.top.1), p) * &dense.weights)
        }),
        accepts_signed: true,
        reduces: true,
    }
}

fn focal() -> Focal {
    let mut focal = Focal::new();
    focal.gamma = 1.5;
    focal
}

fn grpo(_: Tensor, log_ratio: Tensor, a: Tensor) -> Tensor {
    let r = log_ratio.exp();
    -(&r * &a).minimum(&(r.clamp(0.8, 1.28) * a))
}

fn sim_npo() -> SimNpo {
    let mut loss = SimNpo::new();
    (loss.beta, loss.gamma) = (2.0, 0.3);
    loss
}

/// All of them.
pub fn losses() -> Vec<Loss> {
    let mut all = vec![
        token("WeightedNll", WeightedNll::new(), |dense, _| -dense.logp()),
        token("Unlikelihood", Unlikelihood::new(), |dense, _| -(-dense.logp().exp()).log1p()),
        token("Dft", Dft::new(), |dense, _| -dense.logp() * dense.logp().detach().exp()),
        token("Chord", Chord::new(), |dense, _| {
            let p = dense.logp().detach().exp();
            -dense.logp() * &p * (1.0 - &p)
        }),
        token("Focal", focal(), |dense, _| -dense.logp() * (dense.logp().exp() * -1.0 + 1.0).pow_tensor_scalar(1.5)),
        token("Eaft", Eaft::llama_factory(), |dense, _| {
            let k = dense.log_p.size()[1].min(20);
            let top = dense.log_p.detach().topk(k, -1, true, true).0.log_softmax(-1, dense.kind);
            -dense.logp() * -sum(&(top.exp() * &top)) / 3.0
        }),
        policy!("ImportanceSampling", ImportanceSampling::new(), Ratio::Token, |_, log_ratio, a| -log_ratio.exp() * a),
        policy!("Grpo", Grpo::dapo(), Ratio::Token, grpo),
        policy!("Gspo", Grpo::dapo(), Ratio::Sequence, grpo),
        policy!("Cispo", Cispo::new(), Ratio::Token, |logp, log_ratio, a| {
            -log_ratio.detach().exp().clamp_max(5.0) * a * logp
        }),
        policy!("Sapo", Sapo::new(), Ratio::Token, |_, log_ratio, a| {
            let tau = a.gt(0.0).to_kind(a.kind()) * -0.05 + 1.05;
            -((log_ratio.exp() - 1.0) * &tau).sigmoid() * 4.0 / tau * a
        }),
        policy!("Dro", Dro::new(), Ratio::Token, |logp, log_ratio, a| log_ratio.square() * 0.025 - logp * a),
        preference("Dpo", Dpo::new(), |sums| mean(-(difference(&sums.gain) * 0.1).log_sigmoid())),
        preference("Ipo", Ipo::new(), |sums| mean((difference(&sums.gain) - 5.0).square())),
        preference("SimPo", SimPo::new(), |sums| mean(-(difference(&sums.mean) * 2.0 - 0.5).log_sigmoid())),
        preference("Cpo", Cpo::new(), |sums| mean(-(difference(&sums.logp) * 0.1).log_sigmoid()) + &sums.nll),
        Loss {
            accepts_signed: false,
            ..preference("Orpo", Orpo::new(), |sums| {
                let odds = sums.mean.each_ref().map(|mean| mean - (-mean.exp()).log1p());
                &sums.nll - mean(difference(&odds).log_sigmoid()) * 0.1
            })
        },
        preference("Npo", Npo::new(), |sums| mean((&sums.gain[1] * -0.1).log_sigmoid()) * -20.0),
        preference("SimNpo", sim_npo(), |sums| mean(((-&sums.mean[1] - 0.3) * 2.0).log_sigmoid()) * -1.0),
        teacher("forward", Divergence::Forward, 1.0, kl),
        teacher("reverse", Divergence::Reverse, 2.0, |t, p| kl(p, t)),
        teacher("Jensen-Shannon", Divergence::JensenShannon(0.3), 1.5, |t, p| {
            let m = (t.exp() * 0.3 + p.exp() * 0.7).log();
            kl(t, &m) * 0.3 + kl(p, &m) * 0.7
        }),
        teacher("Jensen-Shannon at 0", Divergence::JensenShannon(0.0), 1.0, kl),
        teacher("Jensen-Shannon at 1", Divergence::JensenShannon(1.0), 1.0, |t, p| kl(p, t)),
        top_k("tail ignored", Tail::Ignored, |t, p| kl(&t, &p)),
        top_k("tail renormalised", Tail::Renormalised, |t, p| {
            kl(&t.log_softmax(-1, t.kind()), &p.log_softmax(-1, p.kind()))
        }),
        top_k("tail in a bucket", Tail::Bucket, |t, p| {
            let rest = |log: &Tensor| -> Tensor { 1.0 - sum(&log.exp()) };
            kl(&t, &p) + rest(&t) * (rest(&t).log() - rest(&p).log())
        }),
    ];
    let mut average = Dpo::new();
    (average.average, average.label_smoothing) = (true, 0.1);
    all.push(preference("averaged and smoothed Dpo", average, |sums| {
        let z = difference(&sums.mean_gain) * 0.1;
        mean(z.log_sigmoid() * -0.9 - (-&z).log_sigmoid() * 0.1)
    }));
    for (name, alpha) in [("Tdpo1", None), ("Tdpo2", Some(0.5))] {
        all.push(Loss {
            name,
            ours: Box::new(move |output, rows, data, settings| {
                let (hidden, weight) =
                    (data.teacher_hidden.to_kind(settings.2), data.teacher_weight.to_kind(settings.2));
                let reference = Reference::new((&hidden, &weight));
                let loss = if alpha.is_some() { Tdpo::tdpo2(reference) } else { Tdpo::tdpo1(reference) };
                preference_loss(&loss, output, rows, data, settings)
            }),
            twin: Box::new(move |dense, data| {
                let sums = Sums::new(dense, data);
                let [chosen, rejected] = &sums.kl;
                let further = match alpha {
                    None => rejected - chosen,
                    Some(alpha) => (rejected - chosen.detach()) * alpha,
                };
                Twin::Loss(mean(-((difference(&sums.gain) - further) * 0.1).log_sigmoid()))
            }),
            accepts_signed: true,
            reduces: false,
        });
    }
    all.push(Loss {
        name: "CandidateUnlikelihood",
        ours: Box::new(|output, rows, data, settings| {
            with(TokenLoss::of(CandidateUnlikelihood::new(&data.columns)), settings, output, rows)
        }),
        twin: Box::new(|dense, data| {
            let ids = dense.at(&data.columns);
            let mask = dense.log_p.detach().zeros_like();
            let _ = mask.shallow_clone().scatter_(1, &ids.clamp_min(0), &ids.ge(0).to_kind(mask.kind()));
            // A number that is no column must not unmark column 0.
            let first = ids.eq(0).any_dim(1, false).to_kind(mask.kind());
            mask.select(1, 0).copy_(&first);
            Twin::Rows(-sum(&((-dense.log_p.exp()).log1p() * mask)) * &dense.weights)
        }),
        accepts_signed: true,
        reduces: true,
    });
    all.push(Loss {
        name: "Asft",
        ours: Box::new(|output, rows, data, settings| {
            let (hidden, weight) = (data.teacher_hidden.to_kind(settings.2), data.teacher_weight.to_kind(settings.2));
            with(TokenLoss::of(Asft::new(Reference::new((&hidden, &weight)))), settings, output, rows)
        }),
        twin: Box::new(|dense, data| {
            let t = dense.teacher(data).log_softmax(-1, dense.kind);
            let dft = -dense.logp() * dense.logp().detach().exp();
            Twin::Rows((dft + kl(&t, &dense.log_p) * 0.1) * &dense.weights)
        }),
        accepts_signed: true,
        reduces: true,
    });
    all.push(Loss {
        name: "Rlmec",
        ours: Box::new(|output, rows, data, (_, chunk_rows, kind)| {
            let loss = Rlmec::new().on_rollout(Rollout::new(&data.old, &data.advantages), &data.supervised);
            with(loss, (Reduction::Sum, chunk_rows, kind), output, rows)
        }),
        twin: Box::new(|dense, data| {
            let (logp, a, v) = (dense.logp(), dense.at(&data.advantages), dense.at(&data.supervised));
            let r = (&logp - dense.at(&data.old)).detach().exp();
            let clipped = (&r * &a).minimum(&(r.clamp(0.7, 1.3) * &a));
            let count = |of: &Tensor| of.ne(0.0).sum(Kind::Int64);
            let value = &clipped / count(&a) + &v / count(&v);
            Twin::Loss(-(value * logp * &dense.weights).sum(dense.kind))
        }),
        accepts_signed: true,
        reduces: false,
    });
    all.push(Loss {
        name: "entropy and columns by closure",
        ours: Box::new(|output, rows, data, _| {
            let needs = Needs::new().with_entropy().with_columns(&data.columns);
            rows_loss(output, rows, needs, |scores| {
                let columns = scores.column_log_odds()?.sigmoid().square().sum(None);
                let rows = (scores.entropy()? * scores.weights() * scores.logp()?.square()).sum(None);
                Ok(columns * rows)
            })
        }),
        twin: Box::new(|dense, data| {
            let ids = dense.at(&data.columns);
            let p = dense.log_p.exp().gather(1, &ids.clamp_min(0), false) * ids.ge(0).to_kind(dense.kind);
            Twin::Loss(p.square().sum(None) * (dense.entropy() * &dense.weights * dense.logp().square()).sum(None))
        }),
        accepts_signed: true,
        reduces: false,
    });
    all
}

fn mean(losses: Tensor) -> Tensor {
    losses.mean(losses.kind())
}
