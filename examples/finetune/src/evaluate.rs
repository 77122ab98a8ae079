//! What a model makes of pairs it has not learnt from, and of a text that has nothing to do with them.

use anyhow::Result;
use figa_loss::tch::{self, Device, Kind};
use figa_loss::{EncodedPair, Example, FigaLoss, IGNORE_INDEX, Reduction, SpaRecord, TokenLabel, collate, distance};

use super::generate::greedy;
use super::llama::Llama;
use super::outcome::{Answer, Evaluation, METRICS};
use super::pairs::{Pairs, all_weights_one};

/// What to evaluate on.
pub struct Evaluator {
    records: Vec<SpaRecord>,
    pairs: Vec<EncodedPair>,
    /// Rows of the text, as long as rows may be.
    text: Vec<Example>,
    /// How many pairs are answered greedily.
    answers: usize,
    /// Pairs per forward pass.
    batch: usize,
    device: Device,
}

/// Greedy answers are cut off so many tokens after the length of the longest revised one.
const MARGIN: usize = 8;

/// How many answers a report shows side by side.
const SHOWN: usize = 10;

impl Evaluator {
    pub fn new(
        (records, pairs): (Vec<SpaRecord>, Vec<EncodedPair>),
        text: Vec<Example>,
        answers: usize,
        batch: usize,
        device: Device,
    ) -> Self {
        let answers = answers.min(pairs.len());
        Self { records, pairs, text, answers, batch, device }
    }

    /// Every metric but those of greedy answers, after so many steps.
    pub fn scores(&self, model: &Llama, step: usize) -> Result<Evaluation> {
        let _no_grad = tch::no_grad_guard();
        let mut scores = [None; METRICS.len()];
        let [likelier, added, removed, kept, revised_nll] = self.pair_scores(model)?;
        for (score, value) in scores.iter_mut().zip([likelier, added, removed, kept, revised_nll.exp()]) {
            *score = Some(value).filter(|value| value.is_finite());
        }
        if !self.text.is_empty() {
            let (mut sum, mut tokens) = (0.0, 0);
            for rows in self.text.chunks(2 * self.batch) {
                sum += self.token_nll(model, rows)?.iter().flatten().sum::<f64>();
                tokens += rows.iter().map(|row| row.input_ids().len() - 1).sum::<usize>();
            }
            scores[5] = Some((sum / tokens as f64).exp());
        }
        Ok(Evaluation { step, scores })
    }

    /// Shares and means over the pairs: revised likelier; probability of added, removed and kept tokens; nll of a
    /// revised answer's tokens.
    fn pair_scores(&self, model: &Llama) -> Result<[f64; 5]> {
        // Pairs of about the same length waste little padding on each other.
        let mut by_length: Vec<&EncodedPair> = self.pairs.iter().collect();
        by_length.sort_by_key(|pair| pair.original.input_ids().len().max(pair.revised.input_ids().len()));
        let (mut likelier, mut sums, mut counts) = (0, [0.0; 3], [0; 3]);
        let (mut revised_nll, mut revised_tokens) = (0.0, 0);
        for pairs in by_length.chunks(self.batch) {
            let rows: Vec<Example> =
                pairs.iter().flat_map(|pair| [&pair.original, &pair.revised]).map(all_weights_one).collect();
            let nll = self.token_nll(model, &rows)?;
            for (rows, nll) in rows.chunks(2).zip(nll.chunks(2)) {
                let mut answers = [0.0; 2];
                for side in 0..2 {
                    for (label, nll) in rows[side].token_labels().iter().zip(&nll[side]) {
                        if *label == TokenLabel::Ignored {
                            continue;
                        }
                        answers[side] += nll;
                        revised_tokens += side;
                        let class = match label {
                            TokenLabel::Inserted | TokenLabel::Substituted if side == 1 => 0,
                            TokenLabel::Deleted | TokenLabel::Substituted => 1,
                            TokenLabel::Kept if side == 1 => 2,
                            _ => continue,
                        };
                        sums[class] += (-nll).exp();
                        counts[class] += 1;
                    }
                }
                likelier += usize::from(answers[1] < answers[0]);
                revised_nll += answers[1];
            }
        }
        let mean = |class: usize| sums[class] / f64::from(counts[class]);
        Ok([likelier as f64 / self.pairs.len() as f64, mean(0), mean(1), mean(2), revised_nll / revised_tokens as f64])
    }

    /// The nll of each token of each row that has a weight, 0 elsewhere.
    fn token_nll(&self, model: &Llama, rows: &[Example]) -> Result<Vec<Vec<f64>>> {
        let single = FigaLoss::new().with_gate(None).with_reduction(Reduction::None);
        let batch = collate(rows, 0).to_tensors(self.device)?;
        let hidden = model.forward(&batch.input_ids);
        let nll = single.forward_linear(&hidden, &model.lm_head(), &batch.labels, &batch.weights)?.loss;
        Ok(Vec::try_from(nll.to_kind(Kind::Double).to_device(Device::Cpu))?)
    }

    /// Greedy answers to the prompts of the first pairs, as token ids.
    pub fn answer(&self, model: &Llama, eos: u32) -> Vec<Vec<u32>> {
        let rows = self.pairs[..self.answers].iter().map(|pair| split(&pair.revised, eos));
        let (prompts, answers): (Vec<&[u32]>, Vec<&[u32]>) = rows.unzip();
        let most = answers.iter().map(|answer| answer.len() + MARGIN).max().unwrap_or(0);
        greedy(model, &prompts, eos, most, 4 * self.batch, self.device)
    }

    /// How the greedy answers compare with the pairs'.
    pub fn score_answers(&self, answers: &[Vec<u32>], eos: u32, evaluation: &mut Evaluation) {
        let (mut exact, mut copied, mut edits) = (0, 0, 0);
        for (answer, pair) in answers.iter().zip(&self.pairs) {
            let (original, revised) = (split(&pair.original, eos).1, split(&pair.revised, eos).1);
            exact += usize::from(answer == revised);
            copied += usize::from(answer == original);
            edits += distance(answer, revised);
        }
        if !answers.is_empty() {
            let share = |count: usize| Some(count as f64 / answers.len() as f64);
            evaluation.scores[6..].copy_from_slice(&[share(exact), share(edits), share(copied)]);
        }
    }

    /// Some of the answers as texts.
    pub fn side_by_side(&self, pairs: &Pairs, before: &[Vec<u32>], after: &[Vec<u32>]) -> Result<Vec<Answer>> {
        let shown = self.records.iter().zip(before.iter().zip(after)).take(SHOWN);
        shown
            .map(|(record, (before, after))| {
                Ok(Answer {
                    prompt: format!("{}\n{}", record.instruction, record.input).trim_end().to_owned(),
                    original: record.original_output.clone(),
                    revised: record.revised_output.clone(),
                    before: pairs.text(before)?,
                    after: pairs.text(after)?,
                })
            })
            .collect()
    }
}

/// The ids of a row's prompt, and those of its answer without EOS.
fn split(row: &Example, eos: u32) -> (&[u32], &[u32]) {
    let prompt = row.labels().iter().take_while(|&&label| label == IGNORE_INDEX).count();
    let (prompt, answer) = row.input_ids().split_at(prompt);
    (prompt, answer.strip_suffix(&[eos]).unwrap_or(answer))
}

/// A text as rows of at most `length` tokens, each token of which counts.
pub fn text_rows(ids: &[u32], length: usize) -> Vec<Example> {
    let rows = ids.chunks(length).filter(|ids| ids.len() > 1);
    let row = |ids: &[u32]| {
        let labels = ids.iter().map(|&id| i64::from(id)).collect();
        let (weights, token_labels) = (vec![1.0; ids.len()], vec![TokenLabel::Kept; ids.len()]);
        Example::new(ids.to_vec(), labels, weights, token_labels).expect("four lists of one length")
    };
    rows.map(row).collect()
}
