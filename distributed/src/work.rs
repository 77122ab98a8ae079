//! Operations on their way.

use crate::{ProcessGroup, Result, raw};

/// An operation that has begun. It ends with [`wait`](Self::wait).
///
/// Its tensors are borrowed until then, so nothing reads what is not there yet. Dropping it waits as well, and ignores
/// errors.
#[derive(Debug)]
#[must_use = "an operation has an effect once `wait` has returned"]
pub struct Work<'a> {
    /// `None` once it has ended.
    raw: Option<raw::Work>,
    group: &'a ProcessGroup,
    operation: &'static str,
}

impl<'a> Work<'a> {
    pub(crate) fn new(group: &'a ProcessGroup, operation: &'static str, raw: raw::Result<raw::Work>) -> Result<Self> {
        let raw = raw.map_err(|message| group.communication_error(operation, &message))?;
        Ok(Self { raw: Some(raw), group, operation })
    }

    /// Waits until the operation has ended.
    ///
    /// # Errors
    /// If another process has ended, or has not taken part before the timeout. The group is of no use after that.
    pub fn wait(mut self) -> Result<()> {
        let outcome = self.raw.take().map_or(Ok(()), |raw| raw.wait());
        outcome.map_err(|message| self.group.communication_error(self.operation, &message))
    }
}

impl Drop for Work<'_> {
    fn drop(&mut self) {
        if let Some(raw) = self.raw.take() {
            let _ = raw.wait();
        }
    }
}
