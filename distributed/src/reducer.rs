//! Gradients of all processes, reduced while backward runs.

use std::hash::{DefaultHasher, Hash, Hasher};

use tch::Tensor;

use crate::call::Call;
use crate::connect::one_line;
use crate::{Error, ProcessGroup, Result, raw};

/// Settings of a [`Reducer`].
///
/// ```
/// use tch_c10d::ReducerOptions;
///
/// let mut options = ReducerOptions::default();
/// assert!(!options.find_unused && options.bucket_bytes == 25 << 20);
/// options.find_unused = true;
/// ```
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub struct ReducerOptions {
    /// How many bytes of gradients are sent together: 25 MiB.
    pub bucket_bytes: usize,
    /// Whether parameters may get no gradient. Looking for them takes a walk through the graph in each step.
    pub find_unused: bool,
}

impl Default for ReducerOptions {
    fn default() -> Self {
        Self { bucket_bytes: 25 << 20, find_unused: false }
    }
}

/// Averages gradients over all processes while backward still computes others: the engine of PyTorch's
/// `DistributedDataParallel`.
#[derive(Debug)]
pub struct Reducer<'a> {
    raw: raw::Reducer,
    group: &'a ProcessGroup,
}

impl<'a> Reducer<'a> {
    /// For the parameters of a model, which get the values of rank 0.
    ///
    /// # Errors
    /// If there are none, if one is not a leaf that requires gradients, or if other processes have other parameters.
    pub fn new(group: &'a ProcessGroup, parameters: &[Tensor], options: ReducerOptions) -> Result<Self> {
        let error = |argument, expected: &str, actual: String| {
            Err(Error::Argument { argument, expected: expected.into(), actual })
        };
        if parameters.is_empty() {
            return error("parameters", "at least one", "none".into());
        }
        if options.bucket_bytes == 0 {
            return error("bucket_bytes", "at least 1", "0".into());
        }
        for (index, parameter) in parameters.iter().enumerate() {
            group.check("parameters", parameter)?;
            if !parameter.requires_grad() || !parameter.is_leaf() {
                return error("parameters", "leaves that require gradients", format!("another tensor at {index}"));
            }
        }
        let mut hasher = DefaultHasher::new();
        options.hash(&mut hasher);
        parameters.iter().for_each(|parameter| (parameter.kind(), parameter.size()).hash(&mut hasher));
        group.agree(&Call::new("Reducer::new", hasher.finish() as i64))?;
        let raw = raw::Reducer::new(group.raw(), parameters, options.bucket_bytes, options.find_unused);
        let raw = raw.map_err(|message| group.communication_error("Reducer::new", &message))?;
        Ok(Self { raw, group })
    }

    /// Runs the backward pass of a scalar. Afterwards each gradient is the mean, over all processes, of what has been
    /// accumulated in it.
    ///
    /// For a step of several passes, call `f_backward` for all but the last.
    ///
    /// # Errors
    /// If a process has ended or hangs, if others call something else, or if a parameter got no gradient and
    /// `find_unused` is not set.
    pub fn backward(&self, loss: &Tensor) -> Result<()> {
        let failed = |message: String| self.group.communication_error("Reducer::backward", &message);
        self.group.agree(&Call::new("Reducer::backward", 0))?;
        self.raw.arm(loss).map_err(failed)?;
        loss.f_backward().map_err(|error| failed(error.to_string()))?;
        self.raw.check().map_err(|message| self.incomplete(&message))
    }

    fn incomplete(&self, message: &str) -> Error {
        let reason = match without_gradient(message) {
            Some((first, count)) => format!("parameters without a gradient: {count}, the first of them number {first}"),
            None => one_line(message),
        };
        let reason = format!("{reason}; leave out what the loss does not depend on, or set find_unused");
        self.group.failed("Reducer::backward", reason)
    }
}

/// The first parameter, and the number of parameters, of which c10d says that they got no gradient.
fn without_gradient(message: &str) -> Option<(usize, usize)> {
    let (_, list) = message.rsplit_once("did not receive grad for rank ")?.1.split_once(':')?;
    let mut numbers = list.split_whitespace().map_while(|number| number.parse().ok());
    Some((numbers.next()?, 1 + numbers.count()))
}

#[cfg(test)]
mod tests {
    use super::without_gradient;

    #[test]
    fn parameters_without_a_gradient_are_read_from_the_message() {
        let message =
            "Expected to have.\nParameter indices which did not receive grad for rank 0: 3 5 8\n In addition, 2";
        assert_eq!(without_gradient(message), Some((3, 3)));
        assert_eq!(without_gradient("other 3: 4"), None);
    }
}
