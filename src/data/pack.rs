//! From answers to the same prompt to one row: what they share is computed once.

#[cfg(feature = "torch")]
mod tensors;

#[cfg(feature = "torch")]
pub use tensors::{PackedInputs, PackedTensors, packing_error};

use super::example::Example;
use crate::weights::IGNORE_INDEX;

/// Rows of packed answers, padded on the right.
///
/// Answers that begin alike, such as the two of a pair, share a row: what they have in common comes first and once, then what
/// follows it in each of them, as branches of a tree. A token attends to the tokens in front of it in its own answer, whose
/// positions it continues, so every token has the hidden state that it has in a row of its own. The page
/// [`training`](crate::docs::training) shows what a model must support for that.
///
/// The targets are the tokens that have a label, answer by answer, as they stand in rows of their own. Only those that are needed
/// have an output, and behind the last of them nothing is computed.
#[derive(Debug, Clone, PartialEq)]
#[non_exhaustive]
pub struct PackedBatch {
    /// Number of rows, `B`.
    pub batch_size: usize,
    /// Columns, `S`.
    pub seq_len: usize,
    /// Whether the answers of a row part. If none do, the mask is the causal one, for which kernels are faster.
    pub has_branches: bool,
    /// `[B, S]`: token ids; `pad_id` in the padding.
    pub input_ids: Vec<i64>,
    /// `[B, S]`: the position of each token in its answer, 0 in the padding.
    pub position_ids: Vec<i64>,
    /// `[B, S]`: column `k` is seen by the columns `k..visible_until[k]` of its row. Padding is seen by itself.
    pub visible_until: Vec<i64>,
    /// `[N]`: the targets, [`IGNORE_INDEX`] for an answer that has none.
    pub labels: Vec<i64>,
    /// `[N]`: their weights.
    pub weights: Vec<f32>,
    /// `[N]`: where the output that predicts each of them is among the `B * S` positions; -1 if it is not needed.
    pub outputs: Vec<i64>,
    /// `[N]`: the answer of each of them, counted from 0 over the whole batch.
    pub sequences: Vec<i64>,
    /// `[N]`: the place of each of them in its answer; -1 for an answer that has none.
    pub tokens: Vec<i64>,
}

/// Packs each group of examples into a row: answers to the same prompt, one, two or more of them.
///
/// `is_needed` says which tokens must have an output, given an answer and a place in it; for [`Example`]s usually
/// [`Example::is_active`]. The inputs end in front of the last one. A group in which none is needed has no row, but its targets count.
///
/// ```
/// use figa_loss::{Example, PackedBatch, TokenLabel::Kept, pack};
///
/// let row = |ids: [i64; 4], weights: [f32; 4]| {
///     let labels = ids.iter().enumerate().map(|(at, &id)| if at < 1 { -100 } else { id }).collect();
///     Example::new(ids.map(|id| id as u32).to_vec(), labels, weights.to_vec(), vec![Kept; 4])
/// };
/// // Two answers to the prompt 7 that part after 1.
/// let original = row([7, 1, 2, 3], [0.0, 0.0, -0.5, -0.5])?;
/// let revised = row([7, 1, 4, 3], [0.0, 0.0, 1.0, 0.0])?;
/// let batch: PackedBatch = pack([[&original, &revised]], 0, Example::is_active);
/// // The last 3 of the original is predicted by 2; nothing behind the 1 is needed to predict 4.
/// assert_eq!((batch.batch_size, batch.seq_len, batch.has_branches), (1, 3, false));
/// assert_eq!(batch.input_ids, [7, 1, 2]);
/// assert_eq!(batch.position_ids, [0, 1, 2]);
/// assert_eq!(batch.labels, [1, 2, 3, 1, 4, 3]);
/// assert_eq!(batch.outputs, [-1, 1, 2, -1, 1, -1]);
/// assert_eq!(batch.sequences, [0, 0, 0, 1, 1, 1]);
/// # Ok::<(), figa_loss::Error>(())
/// ```
pub fn pack<'a, A, G>(
    groups: impl IntoIterator<Item = G>,
    pad_id: u32,
    is_needed: impl Fn(&A, usize) -> bool,
) -> PackedBatch
where
    A: AsRef<Example> + 'a,
    G: IntoIterator<Item = &'a A>,
{
    let answers = |group: G| group.into_iter().map(|answer| Answer::new(answer, &is_needed)).collect();
    let groups: Vec<Vec<Answer>> = groups.into_iter().map(answers).collect();
    let trees: Vec<Tree> = groups.iter().map(|answers| Tree::new(answers)).collect();
    let seq_len = trees.iter().map(|tree| tree.ids.len()).max().unwrap_or(0);
    let mut batch = PackedBatch {
        batch_size: 0,
        seq_len,
        has_branches: trees.iter().any(Tree::has_branches),
        input_ids: vec![],
        position_ids: vec![],
        visible_until: vec![],
        labels: vec![],
        weights: vec![],
        outputs: vec![],
        sequences: vec![],
        tokens: vec![],
    };
    let mut sequence = 0;
    for (answers, tree) in groups.iter().zip(&trees) {
        for (answer, columns) in answers.iter().zip(&tree.columns) {
            batch.push_targets(answer, columns, sequence);
            sequence += 1;
        }
        if !tree.ids.is_empty() {
            batch.push_row(tree, pad_id);
        }
    }
    batch
}

/// The number of columns that [`pack`] needs for a group.
pub(super) fn packed_len<'a>(
    group: impl IntoIterator<Item = &'a Example>,
    is_needed: impl Fn(&Example, usize) -> bool,
) -> usize {
    let answers: Vec<Answer> = group.into_iter().map(|example| Answer::new(example, &is_needed)).collect();
    Tree::new(&answers).ids.len()
}

/// A row of its own.
struct Answer<'a> {
    example: &'a Example,
    /// For each token, whether it is predicted.
    needed: Vec<bool>,
    /// The tokens in front of the last one that is predicted.
    inputs: &'a [u32],
}

impl<'a> Answer<'a> {
    fn new<A: AsRef<Example>>(answer: &'a A, is_needed: impl Fn(&A, usize) -> bool) -> Self {
        let example = answer.as_ref();
        let is_needed = |at| at > 0 && example.labels()[at] != IGNORE_INDEX && is_needed(answer, at);
        let needed: Vec<bool> = (0..example.len()).map(is_needed).collect();
        let last = needed.iter().rposition(|&needed| needed);
        Self { example, needed, inputs: &example.input_ids()[..last.unwrap_or(0)] }
    }
}

/// The inputs of a group as a tree of ids, with its nodes in the order of a walk that finishes each branch before the next.
struct Tree {
    ids: Vec<u32>,
    depths: Vec<usize>,
    /// The column behind the last one of the branches that follow each column.
    ends: Vec<usize>,
    /// For each answer, the columns of its inputs.
    columns: Vec<Vec<usize>>,
}

impl Tree {
    fn new(answers: &[Answer]) -> Self {
        let mut order: Vec<usize> = (0..answers.len()).collect();
        // Sorted by their ids, answers are in the order of such a walk: each shares with the one before it what it shares with
        // any before it.
        order.sort_by_key(|&answer| answers[answer].inputs);
        let mut tree = Self { ids: vec![], depths: vec![], ends: vec![], columns: vec![vec![]; answers.len()] };
        let mut previous: Option<usize> = None;
        for answer in order {
            let inputs = answers[answer].inputs;
            let mut columns = previous.map_or_else(Vec::new, |previous| {
                let shared = answers[previous].inputs.iter().zip(inputs).take_while(|(a, b)| a == b).count();
                tree.columns[previous][..shared].to_vec()
            });
            for (depth, &id) in inputs.iter().enumerate().skip(columns.len()) {
                columns.push(tree.ids.len());
                tree.ids.push(id);
                tree.depths.push(depth);
                tree.ends.push(0);
            }
            for &column in &columns {
                tree.ends[column] = tree.ids.len();
            }
            tree.columns[answer] = columns;
            previous = Some(answer);
        }
        tree
    }

    fn has_branches(&self) -> bool {
        self.ends.iter().any(|&end| end < self.ids.len())
    }
}

impl PackedBatch {
    /// What some lists hold for the targets, given one list for each answer with an entry for each of its tokens. Where a list
    /// is shorter, as for an answer without a target, it is the default.
    ///
    /// ```
    /// use figa_loss::{Example, TokenLabel::Kept, pack};
    ///
    /// let row = Example::new(vec![7, 1, 2], vec![-100, 1, 2], vec![0.0, 1.0, 1.0], vec![Kept; 3])?;
    /// let batch = pack([[&row]], 0, Example::is_active);
    /// assert_eq!(batch.of_targets(&[&[0.0, 0.25, 0.5]]), [0.25, 0.5]);
    /// assert_eq!(batch.of_targets::<f32>(&[&[]]), [0.0, 0.0]);
    /// # Ok::<(), figa_loss::Error>(())
    /// ```
    pub fn of_targets<T: Copy + Default>(&self, answers: &[&[T]]) -> Vec<T> {
        let places = self.sequences.iter().zip(&self.tokens);
        let entry = |(&sequence, &token): (&i64, &i64)| {
            let list = answers.get(usize::try_from(sequence).ok()?)?;
            list.get(usize::try_from(token).ok()?).copied()
        };
        places.map(|place| entry(place).unwrap_or_default()).collect()
    }

    fn push_targets(&mut self, Answer { example, needed, .. }: &Answer, columns: &[usize], sequence: i64) {
        let first = (self.batch_size * self.seq_len) as i64;
        let mut push = |token: Option<usize>| {
            let predicted = token.filter(|&at| needed[at]);
            let output = predicted.map_or(-1, |at| first + columns[at - 1] as i64);
            self.labels.push(token.map_or(IGNORE_INDEX, |at| example.labels()[at]));
            self.weights.push(token.map_or(0.0, |at| example.weights()[at]));
            self.outputs.push(output);
            self.sequences.push(sequence);
            self.tokens.push(token.map_or(-1, |at| at as i64));
        };
        let mut targets = (1..example.len()).filter(|&at| example.labels()[at] != IGNORE_INDEX).peekable();
        if targets.peek().is_none() {
            // The answer counts as a sequence.
            push(None);
        }
        targets.for_each(|at| push(Some(at)));
    }

    fn push_row(&mut self, tree: &Tree, pad_id: u32) {
        self.batch_size += 1;
        let (len, end) = (tree.ids.len(), self.batch_size * self.seq_len);
        self.input_ids.extend(tree.ids.iter().map(|&id| i64::from(id)));
        self.input_ids.resize(end, i64::from(pad_id));
        self.position_ids.extend(tree.depths.iter().map(|&depth| depth as i64));
        self.position_ids.resize(end, 0);
        self.visible_until.extend(tree.ends.iter().map(|&column| column as i64));
        self.visible_until.extend((len..self.seq_len).map(|column| column as i64 + 1));
    }
}
