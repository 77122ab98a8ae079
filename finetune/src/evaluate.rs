//! The evaluation of a model: on pairs that it does not train on, and on a control text unrelated to them.

use std::fs;
use std::path::Path;

use anyhow::{Context, Result};
use figa_loss::tch;
use figa_loss::{EncodedPair, Example, IGNORE_INDEX, Side, SpaRecord, TokenLabel, distance};

use crate::args::{MeasureArgs, RowArgs};
use crate::decoder::Decoder;
use crate::encode::{Dataset, Encoder};
use crate::generate::{Limits, Prompt, Sampling, generate};
use crate::loss::token_log_probs;
use crate::method::with_equal_weights;
use crate::metrics::{Answer, AnswerScores, Scores};
use crate::ranks::Ranks;
use crate::rows::Layout;
use crate::word_edits::EditCounts;

/// A greedy answer may be this many tokens longer than the longest revised one.
const EXTRA_TOKENS: usize = 8;

/// The number of answers that a report shows side by side.
const SHOWN_ANSWERS: usize = 10;

/// The control text without `--text`.
const CONTROL_TEXT: &str = include_str!("control.txt");

/// Evaluates models on the same pairs and control text.
pub struct Evaluator {
    data: Dataset,
    pairs: Vec<EncodedPair>,
    control: Vec<u32>,
    /// The most tokens of a row.
    max_length: usize,
    /// The number of pairs to answer.
    answers: usize,
    sampling: Sampling,
    /// Pairs per forward pass.
    batch: usize,
    layout: Layout,
    pad_id: u32,
    /// What stops an answer.
    stop_ids: Vec<u32>,
}

impl Evaluator {
    /// Reads the records to evaluate on and the control text.
    pub fn read(path: &Path, encoder: &Encoder, seed: u64, measure: &MeasureArgs, rows: &RowArgs) -> Result<Self> {
        let data = Dataset::read(path, &rows.fields.fields())?;
        let pairs = encoder.pairs(&data)?;
        let control = match &measure.text {
            Some(path) => &fs::read_to_string(path).with_context(|| path.display().to_string())?,
            None => CONTROL_TEXT,
        };
        Ok(Self {
            data,
            control: encoder.ids(control)?,
            max_length: rows.max_length,
            answers: measure.answers.min(pairs.len()),
            sampling: measure.sampling.with_seed(seed),
            batch: rows.micro_batch,
            layout: rows.layout(),
            pad_id: encoder.eos_id(),
            stop_ids: encoder.stop_ids(&pairs),
            pairs,
        })
    }

    /// How many pairs there are, and how many of their rows are truncated.
    pub fn summary(&self, encoder: &Encoder, rows: &RowArgs) -> String {
        self.data.summary(&self.pairs, encoder, rows)
    }

    /// The pairs to evaluate on.
    pub fn pairs(&self) -> &[EncodedPair] {
        &self.pairs
    }

    /// The token ids of the control text.
    pub fn control(&self) -> &[u32] {
        &self.control
    }

    /// The records to evaluate on.
    pub fn records(&self) -> &[SpaRecord] {
        &self.data.records
    }

    /// All scores except those of greedy answers, and for each record the log-probability of its revised answer less that of
    /// its original one. Each process measures a share.
    pub fn scores(&self, model: &Decoder, ranks: &Ranks) -> Result<(Scores, Vec<f64>)> {
        let _no_grad = tch::no_grad_guard();
        let (mut pairs, mut margins) = self.pair_means(model, ranks)?;
        ranks.sum(&mut margins)?;
        for mean in pairs.all() {
            mean.sum_over(ranks)?;
        }
        let scores = Scores {
            revised_likelier: pairs.revised_likelier.value(),
            p_added: pairs.p_added.value(),
            p_removed: pairs.p_removed.value(),
            p_kept: pairs.p_kept.value(),
            ppl_revised: pairs.revised_nll.perplexity(),
            ppl_control: self.control_nll(model)?.perplexity(),
            ..Scores::default()
        };
        Ok((scores, margins))
    }

    fn pair_means(&self, model: &Decoder, ranks: &Ranks) -> Result<(PairMeans, Vec<f64>)> {
        // Pairs of similar length need little padding.
        let mut by_length: Vec<usize> = (0..self.pairs.len()).collect();
        by_length.sort_by_key(|&pair| self.pairs[pair].rows().map(Example::len).into_iter().max());
        let (mut means, mut margins) = (PairMeans::default(), vec![0.0; self.pairs.len()]);
        for places in by_length.chunks(self.batch).skip(ranks.rank()).step_by(ranks.count()) {
            let rows = |&place: &usize| self.pairs[place].rows().map(with_equal_weights).into();
            let groups: Vec<Vec<Example>> = places.iter().map(rows).collect();
            let nll = self.token_nll(model, &groups)?;
            for (&place, nll) in places.iter().zip(nll.chunks_exact(2)) {
                margins[place] = means.add(&self.pairs[place], [&nll[0], &nll[1]]);
            }
        }
        Ok((means, margins))
    }

    fn control_nll(&self, model: &Decoder) -> Result<Mean> {
        let mut mean = Mean::default();
        // Rows by themselves, each a group.
        let rows: Vec<Vec<Example>> =
            text_rows(&self.control, self.max_length).into_iter().map(|row| vec![row]).collect();
        for groups in rows.chunks(2 * self.batch) {
            // Nothing predicts the first token of a row.
            let tokens = groups.iter().flatten().map(|row| row.len() - 1).sum();
            mean.add_many(self.token_nll(model, groups)?.iter().flatten().sum(), tokens);
        }
        Ok(mean)
    }

    /// The nll of each token that has a weight, and 0 for all others.
    fn token_nll(&self, model: &Decoder, groups: &[Vec<Example>]) -> Result<Vec<Vec<f64>>> {
        let log_probs = token_log_probs(model, groups, self.layout, self.pad_id)?;
        let nll = |list: Vec<f32>| list.into_iter().map(|log_prob| -f64::from(log_prob)).collect();
        Ok(log_probs.into_iter().map(nll).collect())
    }

    /// Answers to the prompts of the first pairs, as token ids.
    pub fn answers(&self, model: &Decoder, ranks: &Ranks) -> Result<Vec<Vec<u32>>> {
        let rows = self.pairs[..self.answers].iter().map(|pair| split(&pair.revised));
        let (prompts, revised): (Vec<&[u32]>, Vec<&[u32]>) = rows.unzip();
        let prompts: Vec<Prompt> = (0..).zip(prompts).map(|(number, ids)| Prompt { number, ids }).collect();
        let max_tokens = revised.iter().map(|answer| answer.len() + EXTRA_TOKENS).max().unwrap_or(0);
        let (stop_ids, batch) = (&self.stop_ids[..], 4 * self.batch);
        let limits = Limits { stop_ids, max_tokens, batch };
        let answers = generate(model, &prompts[ranks.share(prompts.len())], limits, self.sampling);
        let ids: Vec<Vec<u32>> = answers.into_iter().map(|answer| answer.ids).collect();
        Ok(ranks.gather(ids)?.concat())
    }

    /// Adds the scores of answers, which are means of those of each answer.
    pub fn score_answers(
        &self,
        encoder: &Encoder,
        answers: &[Vec<u32>],
        scores: &mut Scores,
    ) -> Result<Vec<AnswerScores>> {
        let records = answers.iter().zip(&self.pairs).zip(&self.data.records);
        let score = |((answer, pair), record): ((&Vec<u32>, &EncodedPair), &SpaRecord)| {
            let [original, revised] = pair.rows().map(|row| split(row).1);
            let [source, reference] = [&record.original_output, &record.revised_output].map(|answer| answer.text());
            Ok(AnswerScores {
                exact_match: answer == revised,
                copied: answer == original,
                edit_distance: distance(answer, revised),
                word_edits: EditCounts::of(&source, &encoder.text(answer)?, &reference),
            })
        };
        let each = records.map(score).collect::<Result<Vec<_>>>()?;
        let mean = |score: fn(&AnswerScores) -> f64| {
            let mut mean = Mean::default();
            each.iter().for_each(|answer| mean.add(score(answer)));
            mean.value()
        };
        scores.exact_match = mean(|answer| answer.exact_match.into());
        scores.copied = mean(|answer| answer.copied.into());
        scores.edit_distance = mean(|answer| answer.edit_distance as f64);
        scores.word_edits = each.iter().map(|answer| answer.word_edits).sum::<EditCounts>().f_half();
        Ok(each)
    }

    /// The texts of the first answers, for the report.
    pub fn side_by_side(&self, encoder: &Encoder, before: &[Vec<u32>], after: &[Vec<u32>]) -> Result<Vec<Answer>> {
        let answers = self.data.records.iter().zip(before.iter().zip(after)).take(SHOWN_ANSWERS);
        answers
            .map(|(record, (before, after))| {
                Ok(Answer {
                    prompt: prompt(record),
                    original: record.original_output.text().into_owned(),
                    revised: record.revised_output.text().into_owned(),
                    before: encoder.text(before)?,
                    after: encoder.text(after)?,
                })
            })
            .collect()
    }
}

/// The text of a record's prompt, for people.
pub fn prompt(record: &SpaRecord) -> String {
    let messages = record.messages.iter().map(|message| format!("{}: {}\n", message.role(), message.text()));
    let text = format!("{}\n{}", record.instruction, record.input);
    let text = if record.messages.is_empty() { text } else { messages.collect() };
    text.trim_end().to_owned()
}

/// Means over the tokens of all pairs.
#[derive(Default)]
struct PairMeans {
    revised_likelier: Mean,
    p_added: Mean,
    p_removed: Mean,
    p_kept: Mean,
    revised_nll: Mean,
}

impl PairMeans {
    fn all(&mut self) -> [&mut Mean; 5] {
        let Self { revised_likelier, p_added, p_removed, p_kept, revised_nll } = self;
        [revised_likelier, p_added, p_removed, p_kept, revised_nll]
    }

    /// Adds a pair with the nll of each token of its rows. Returns by how much the revised answer is the likelier.
    fn add(&mut self, pair: &EncodedPair, nll: [&[f64]; 2]) -> f64 {
        let mut sums = [0.0; 2];
        let mut revised_tokens = 0;
        for ((side, nll), sum) in Side::ALL.into_iter().zip(nll).zip(&mut sums) {
            for (&label, nll) in pair.row(side).token_labels().iter().zip(nll) {
                if label == TokenLabel::Ignored {
                    continue;
                }
                *sum += nll;
                revised_tokens += usize::from(side == Side::Revised);
                if let Some(mean) = self.probability(side, label) {
                    mean.add((-nll).exp());
                }
            }
        }
        let [original, revised] = sums;
        self.revised_likelier.add(f64::from(revised < original));
        self.revised_nll.add_many(revised, revised_tokens);
        original - revised
    }

    fn probability(&mut self, side: Side, label: TokenLabel) -> Option<&mut Mean> {
        match (side, label) {
            (Side::Revised, TokenLabel::Inserted | TokenLabel::Substituted) => Some(&mut self.p_added),
            (Side::Original, TokenLabel::Deleted | TokenLabel::Substituted) => Some(&mut self.p_removed),
            (Side::Revised, TokenLabel::Kept) => Some(&mut self.p_kept),
            _ => None,
        }
    }
}

/// A running mean.
#[derive(Default)]
struct Mean {
    sum: f64,
    count: usize,
}

impl Mean {
    fn add(&mut self, value: f64) {
        self.add_many(value, 1);
    }

    fn add_many(&mut self, sum: f64, count: usize) {
        self.sum += sum;
        self.count += count;
    }

    fn sum_over(&mut self, ranks: &Ranks) -> Result<()> {
        let mut numbers = [self.sum, self.count as f64];
        ranks.sum(&mut numbers)?;
        (self.sum, self.count) = (numbers[0], numbers[1] as usize);
        Ok(())
    }

    /// The mean, if it is finite.
    fn value(&self) -> Option<f64> {
        Some(self.sum / self.count as f64).filter(|mean| mean.is_finite())
    }

    /// The perplexity of a mean nll, if it is finite.
    fn perplexity(&self) -> Option<f64> {
        self.value().map(f64::exp).filter(|perplexity| perplexity.is_finite())
    }
}

/// The ids of a row's prompt, and those of its answer without EOS.
fn split(row: &Example) -> (&[u32], &[u32]) {
    let prompt = row.labels().iter().take_while(|&&label| label == IGNORE_INDEX).count();
    let (prompt, answer) = row.input_ids().split_at(prompt);
    (prompt, if row.is_complete() { &answer[..answer.len() - 1] } else { answer })
}

/// A text as rows of at most `length` tokens, all with weight 1.
fn text_rows(ids: &[u32], length: usize) -> Vec<Example> {
    let row = |ids: &[u32]| {
        let labels = ids.iter().map(|&id| i64::from(id)).collect();
        let (weights, token_labels) = (vec![1.0; ids.len()], vec![TokenLabel::Kept; ids.len()]);
        Example::new(ids.to_vec(), labels, weights, token_labels).expect("four lists of one length")
    };
    // A row of one token predicts nothing.
    ids.chunks(length).filter(|ids| ids.len() > 1).map(row).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn row(labels: [TokenLabel; 4]) -> Example {
        let ids = vec![1, 2, 3, 4];
        Example::new(ids, vec![IGNORE_INDEX, 2, 3, 4], vec![0.0; 4], labels.to_vec()).unwrap()
    }

    #[test]
    fn each_class_of_tokens_has_a_mean_of_its_own() {
        use TokenLabel::{Deleted, Eos, Ignored, Inserted, Kept, Substituted};
        let original = row([Ignored, Deleted, Substituted, Kept]);
        let revised = row([Ignored, Inserted, Kept, Eos]);
        let pair = EncodedPair::new(original, revised);
        let nll = |p: [f64; 3]| [0.0, -p[0].ln(), -p[1].ln(), -p[2].ln()];
        let mut means = PairMeans::default();
        // Padding follows the tokens of a row.
        let revised = [&nll([0.5, 0.25, 0.125])[..], &[9.0]].concat();
        let margin = means.add(&pair, [&nll([0.1, 0.3, 0.9]), &revised]);
        assert!((margin - (64f64.recip() / 0.027).ln()).abs() < 1e-12);
        means.add(&pair, [&nll([0.9; 3]), &nll([0.1, 0.1, 0.1])]);

        let close = |mean: Option<f64>, expected: f64| assert!((mean.unwrap() - expected).abs() < 1e-12, "{mean:?}");
        close(means.revised_likelier.value(), 0.0);
        close(means.p_added.value(), (0.5 + 0.1) / 2.0);
        close(means.p_removed.value(), (0.1 + 0.3 + 0.9 + 0.9) / 4.0);
        close(means.p_kept.value(), (0.25 + 0.1) / 2.0);
        // Two answers of three tokens: the sixth root of the inverse product of their probabilities.
        close(means.revised_nll.perplexity(), (64.0 * 1000f64).powf(1.0 / 6.0));
        means.add(&pair, [&nll([0.1; 3]), &nll([0.2; 3])]);
        close(means.revised_likelier.value(), 1.0 / 3.0);
    }

    #[test]
    fn a_mean_of_nothing_is_missing() {
        assert_eq!((Mean::default().value(), Mean::default().perplexity()), (None, None));
        assert_eq!(Mean { sum: 1e6, count: 1 }.perplexity(), None);
    }
}
