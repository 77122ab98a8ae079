//! Greedy generation for many prompts at a time.

use std::iter::repeat_n;

use figa_loss::tch::{self, Kind, Tensor};

use crate::llama::{Cache, Llama};

/// The most likely continuation of each prompt, up to one of `stop_ids` (not included) or `max_tokens` tokens.
pub fn greedy(model: &Llama, prompts: &[&[u32]], stop_ids: &[u32], max_tokens: usize, batch: usize) -> Vec<Vec<u32>> {
    // Prompts of similar length need little padding.
    let mut by_length: Vec<usize> = (0..prompts.len()).collect();
    by_length.sort_by_key(|&prompt| prompts[prompt].len());
    let mut answers = vec![vec![]; prompts.len()];
    for chunk in by_length.chunks(batch) {
        let prompts: Vec<&[u32]> = chunk.iter().map(|&prompt| prompts[prompt]).collect();
        for (&prompt, answer) in chunk.iter().zip(greedy_batch(model, &prompts, stop_ids, max_tokens)) {
            answers[prompt] = answer;
        }
    }
    answers
}

fn greedy_batch(model: &Llama, prompts: &[&[u32]], stop_ids: &[u32], max_tokens: usize) -> Vec<Vec<u32>> {
    let _no_grad = tch::no_grad_guard();
    let (batch, device) = (prompts.len() as i64, model.device());
    let longest = prompts.iter().map(|prompt| prompt.len()).max().unwrap_or(0);
    let max_tokens = max_tokens.min((model.config.max_position_embeddings as usize).saturating_sub(longest));
    let (mut input_ids, mut tokens) = pad_left(prompts, longest);
    (input_ids, tokens) = (input_ids.to_device(device), tokens.to_device(device));

    let mut cache = Cache::default();
    let mut answers = vec![vec![]; prompts.len()];
    let mut ended = vec![false; prompts.len()];
    for _ in 0..max_tokens {
        let hidden = model.forward_cached(&input_ids, &tokens, &mut cache);
        let next = hidden.select(1, -1).matmul(&model.lm_head().tr()).argmax(-1, false);
        for (row, &id) in Vec::<i64>::try_from(&next).expect("ids are integers").iter().enumerate() {
            let id = id as u32;
            ended[row] |= stop_ids.contains(&id);
            if !ended[row] {
                answers[row].push(id);
            }
        }
        if ended.iter().all(|&ended| ended) {
            break;
        }
        input_ids = next.unsqueeze(1);
        tokens = Tensor::cat(&[&tokens, &Tensor::ones([batch, 1], (Kind::Bool, device))], 1);
    }
    answers
}

/// Any id will do: the mask hides it.
const PAD_ID: i64 = 0;

/// The ids of the prompts, and a mask that is true for their tokens. With the padding on the left, the last column
/// contains the last token of each prompt.
fn pad_left(prompts: &[&[u32]], length: usize) -> (Tensor, Tensor) {
    let (mut ids, mut tokens) = (vec![], vec![]);
    for prompt in prompts {
        let padding = length - prompt.len();
        ids.extend(repeat_n(PAD_ID, padding).chain(prompt.iter().map(|&id| i64::from(id))));
        tokens.extend(repeat_n(false, padding).chain(repeat_n(true, prompt.len())));
    }
    let shape = [prompts.len() as i64, length as i64];
    (Tensor::from_slice(&ids).reshape(shape), Tensor::from_slice(&tokens).reshape(shape))
}
