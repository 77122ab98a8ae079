//! Answers to many prompts at a time.

use std::iter::repeat_n;

use figa_loss::tch::{self, Kind, Tensor};
use serde::{Deserialize, Serialize};

use crate::decoder::{Cache, Decoder};

/// How the next token is chosen.
#[derive(Debug, Clone, Copy)]
pub struct Sampling {
    /// What logits are divided by; 0 for the likeliest token.
    pub temperature: f64,
    /// Tokens are drawn from the likeliest ones, as many as have this probability together.
    pub top_p: f64,
    /// An answer depends on it, on the prompt and its number, not on what else is computed.
    pub seed: u64,
}

/// When answers end, and how many are generated at a time.
#[derive(Debug, Clone, Copy)]
pub struct Limits<'a> {
    /// Tokens that end an answer, which does not include them.
    pub stop_ids: &'a [u32],
    /// The most tokens of an answer.
    pub max_tokens: usize,
    /// Prompts per forward pass.
    pub batch: usize,
}

/// A prompt as token ids.
#[derive(Debug, Clone, Copy)]
pub struct Prompt<'a> {
    /// Counts prompts; a sampled answer depends on it.
    pub number: u64,
    /// Its tokens.
    pub ids: &'a [u32],
}

/// An answer of a model.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub struct Generated {
    /// Its tokens, without the one that ends it.
    pub ids: Vec<u32>,
    /// Whether one of the tokens that end answers has ended it.
    pub is_complete: bool,
}

/// An answer to each prompt.
pub fn generate(model: &Decoder, prompts: &[Prompt<'_>], limits: Limits<'_>, sampling: Sampling) -> Vec<Generated> {
    // Prompts of similar length need little padding.
    let mut by_length: Vec<usize> = (0..prompts.len()).collect();
    by_length.sort_by_key(|&prompt| prompts[prompt].ids.len());
    let mut answers = vec![Generated::default(); prompts.len()];
    for chunk in by_length.chunks(limits.batch) {
        let batch: Vec<Prompt> = chunk.iter().map(|&prompt| prompts[prompt]).collect();
        for (&prompt, answer) in chunk.iter().zip(generate_batch(model, &batch, limits, sampling)) {
            answers[prompt] = answer;
        }
    }
    answers
}

fn generate_batch(model: &Decoder, prompts: &[Prompt<'_>], limits: Limits<'_>, sampling: Sampling) -> Vec<Generated> {
    let _no_grad = tch::no_grad_guard();
    let device = model.device();
    let longest = prompts.iter().map(|prompt| prompt.ids.len()).max().unwrap_or(0);
    let max_tokens = limits.max_tokens.min((model.config.max_position_embeddings as usize).saturating_sub(longest));
    let (mut input_ids, mut tokens) = pad_left(prompts, longest);
    (input_ids, tokens) = (input_ids.to_device(device), tokens.to_device(device));

    let (head, mut cache) = (model.head(), Cache::default());
    let mut answers = vec![Generated::default(); prompts.len()];
    // The prompts whose answers have not ended: each has a row.
    let mut active: Vec<usize> = (0..prompts.len()).collect();
    for place in 0..max_tokens {
        let hidden = model.forward_cached(&input_ids, &tokens, &mut cache);
        let of_rows: Vec<Prompt> = active.iter().map(|&prompt| prompts[prompt]).collect();
        let mut next = sampling.choose(&head.logits(&hidden.select(1, -1)), &of_rows, place);
        let ids = Vec::<i64>::try_from(&next).expect("ids are integers");
        let mut rows = vec![];
        for (row, (&prompt, id)) in (0i64..).zip(active.iter().zip(ids)) {
            if limits.stop_ids.contains(&(id as u32)) {
                answers[prompt].is_complete = true;
            } else {
                answers[prompt].ids.push(id as u32);
                rows.push(row);
            }
        }
        if rows.is_empty() {
            break;
        }
        if rows.len() < active.len() {
            active = rows.iter().map(|&row| active[row as usize]).collect();
            let rows = Tensor::from_slice(&rows).to_device(device);
            [next, tokens] = [next, tokens].map(|of_rows| of_rows.index_select(0, &rows));
            cache.keep(&rows);
        }
        input_ids = next.unsqueeze(1);
        tokens = Tensor::cat(&[&tokens, &Tensor::ones([active.len() as i64, 1], (Kind::Bool, device))], 1);
    }
    answers
}

impl Sampling {
    /// The likeliest tokens.
    pub const GREEDY: Self = Self { temperature: 0.0, top_p: 1.0, seed: 0 };

    /// From logits `[B, V]` to ids `[B]`, given the prompt of each and the place in the answers.
    fn choose(self, logits: &Tensor, prompts: &[Prompt<'_>], place: usize) -> Tensor {
        if self.temperature == 0.0 {
            return logits.argmax(-1, false);
        }
        let probabilities = (logits.to_kind(Kind::Float) / self.temperature).softmax(-1, Kind::Float);
        let (sorted, order) = probabilities.sort(-1, true);
        // Those in front of which less than top_p is taken: at least one.
        let is_taken = (sorted.cumsum(-1, Kind::Float) - &sorted).lt(self.top_p);
        let sums = (sorted * is_taken).cumsum(-1, Kind::Float);
        let uniform: Vec<f32> = prompts.iter().map(|prompt| self.uniform(prompt.number, place as u64)).collect();
        let uniform = Tensor::from_slice(&uniform).to_device(logits.device()).unsqueeze(1);
        let total = sums.narrow(-1, sums.size()[1] - 1, 1);
        // The first one whose sum exceeds the number. Rounding may leave none, then it is the last one that is taken.
        let place = sums.le_tensor(&(uniform * &total)).logical_and(&sums.lt_tensor(&total));
        order.gather(1, &place.sum_dim_intlist(1, true, Kind::Int64), false).squeeze_dim(1)
    }

    /// A number of at least 0 and below 1.
    fn uniform(self, prompt: u64, place: u64) -> f32 {
        let bits = [self.seed, prompt, place].into_iter().fold(0, |state, number| mix(state ^ number));
        // As many bits as an f32 holds.
        (bits >> 40) as f32 / (1 << 24) as f32
    }
}

/// The finalizer of SplitMix64 (Steele, Lea and Flood 2014).
fn mix(state: u64) -> u64 {
    let mut z = state.wrapping_add(0x9e37_79b9_7f4a_7c15);
    z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    z ^ (z >> 31)
}

/// Any id will do: the mask hides it.
const PAD_ID: i64 = 0;

/// The ids of the prompts, and a mask that is true for their tokens. With the padding on the left, the last column
/// contains the last token of each prompt.
fn pad_left(prompts: &[Prompt<'_>], length: usize) -> (Tensor, Tensor) {
    let (mut ids, mut tokens) = (vec![], vec![]);
    for prompt in prompts {
        let padding = length - prompt.ids.len();
        ids.extend(repeat_n(PAD_ID, padding).chain(prompt.ids.iter().map(|&id| i64::from(id))));
        tokens.extend(repeat_n(false, padding).chain(repeat_n(true, prompt.ids.len())));
    }
    let shape = [prompts.len() as i64, length as i64];
    (Tensor::from_slice(&ids).reshape(shape), Tensor::from_slice(&tokens).reshape(shape))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tokens_are_drawn_with_their_probabilities() {
        let logits = Tensor::from_slice(&[0.1f32, 0.4, 0.2, 0.3]).log().unsqueeze(0);
        let shares = |temperature, top_p| {
            let sampling = Sampling { temperature, top_p, seed: 1 };
            const DRAWS: usize = 20_000;
            let prompts: Vec<Prompt> = (0..DRAWS as u64).map(|number| Prompt { number, ids: &[] }).collect();
            let ids = sampling.choose(&logits.expand([DRAWS as i64, 4], false), &prompts, 3);
            let count = |id: i64| ids.eq(id).sum(Kind::Int64).int64_value(&[]) as f64 / DRAWS as f64;
            [0, 1, 2, 3].map(count)
        };
        let near = |shares: [f64; 4], expected: [f64; 4]| {
            let worst = shares.iter().zip(expected).map(|(a, b)| (a - b).abs()).fold(0.0, f64::max);
            assert!(worst < 0.02, "{shares:?} {expected:?}");
        };
        near(shares(1.0, 1.0), [0.1, 0.4, 0.2, 0.3]);
        // 0.4 and 0.3 together are less than 0.75, so 0.2 is taken as well.
        near(shares(1.0, 0.75), [0.0, 4.0 / 9.0, 2.0 / 9.0, 3.0 / 9.0]);
        near(shares(1.0, 0.69), [0.0, 4.0 / 7.0, 0.0, 3.0 / 7.0]);
        near(shares(1.0, 1e-9), [0.0, 1.0, 0.0, 0.0]);
        // Squares of the probabilities.
        near(shares(0.5, 1.0), [1.0 / 30.0, 16.0 / 30.0, 4.0 / 30.0, 9.0 / 30.0]);
        assert_eq!(Sampling::GREEDY.choose(&logits, &[], 0).int64_value(&[0]), 1);
    }
}
