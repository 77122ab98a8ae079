//! Greedy answers, many prompts at a time.

use figa_loss::tch::{self, Device, Kind, Tensor};

use super::llama::{Cache, Llama};

/// The likeliest next tokens after each prompt, until `eos` (not part of the answer) or `most` tokens.
pub fn greedy(model: &Llama, prompts: &[&[u32]], eos: u32, most: usize, batch: usize, device: Device) -> Vec<Vec<u32>> {
    let mut by_length: Vec<usize> = (0..prompts.len()).collect();
    by_length.sort_by_key(|&prompt| prompts[prompt].len());
    let mut answers = vec![vec![]; prompts.len()];
    for chunk in by_length.chunks(batch) {
        let prompts: Vec<&[u32]> = chunk.iter().map(|&prompt| prompts[prompt]).collect();
        for (&prompt, answer) in chunk.iter().zip(greedy_batch(model, &prompts, eos, most, device)) {
            answers[prompt] = answer;
        }
    }
    answers
}

fn greedy_batch(model: &Llama, prompts: &[&[u32]], eos: u32, most: usize, device: Device) -> Vec<Vec<u32>> {
    let _no_grad = tch::no_grad_guard();
    let longest = prompts.iter().map(|prompt| prompt.len()).max().unwrap_or(0);
    let most = most.min((model.config.max_position_embeddings as usize).saturating_sub(longest));
    // Padding on the left: the last column holds the last token of each prompt.
    let padding = |prompt: &[u32]| longest - prompt.len();
    let ids = prompts.iter().flat_map(|prompt| {
        std::iter::repeat_n(i64::from(eos), padding(prompt)).chain(prompt.iter().map(|&id| i64::from(id)))
    });
    let tokens = prompts.iter().flat_map(|prompt| (0..longest).map(|column| column >= padding(prompt)));
    let shape = [prompts.len() as i64, longest as i64];
    let mut input_ids = Tensor::from_slice(&ids.collect::<Vec<_>>()).reshape(shape).to_device(device);
    let mut tokens = Tensor::from_slice(&tokens.collect::<Vec<_>>()).reshape(shape).to_device(device);

    let mut cache = Cache::default();
    let mut answers = vec![vec![]; prompts.len()];
    let mut ended = vec![false; prompts.len()];
    for _ in 0..most {
        let hidden = model.forward_cached(&input_ids, &tokens, &mut cache);
        let next = hidden.select(1, -1).matmul(&model.lm_head().tr()).argmax(-1, false);
        for (row, &id) in Vec::<i64>::try_from(&next).expect("ids are integers").iter().enumerate() {
            ended[row] |= id == i64::from(eos);
            if !ended[row] {
                answers[row].push(id as u32);
            }
        }
        if ended.iter().all(|&ended| ended) {
            break;
        }
        input_ids = next.unsqueeze(1);
        tokens = Tensor::cat(&[&tokens, &Tensor::ones([shape[0], 1], (Kind::Bool, device))], 1);
    }
    answers
}
