//! The one error type. Every message is a single line: what was wrong, where, and what to do.

/// `std::result::Result` with this crate's [`Error`].
pub type Result<T, E = Error> = std::result::Result<T, E>;

/// Everything that can go wrong.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// An environment variable is missing or invalid.
    #[error("{variable}: {message}")]
    Environment {
        /// The variable.
        variable: &'static str,
        /// What is wrong with it, and what to do.
        message: String,
    },

    /// An argument is outside of its domain.
    #[error("{argument}: expected {expected}, got {actual}")]
    Argument {
        /// The argument, and the function if its name alone does not say which.
        argument: &'static str,
        /// What is accepted.
        expected: String,
        /// What was given.
        actual: String,
    },

    /// The processes did not come together.
    #[error("rank {rank} of {world_size}: no process group at {address}: {reason}")]
    Connect {
        /// The rank of this process.
        rank: usize,
        /// How many processes it expects.
        world_size: usize,
        /// Host and port of the store.
        address: String,
        /// What went wrong, and what to do.
        reason: String,
    },

    /// An operation failed on its way: another process has ended, hangs, or does something else.
    #[error("rank {rank} of {world_size}: {operation} failed: {reason}")]
    Communication {
        /// The rank of this process.
        rank: usize,
        /// How many processes there are.
        world_size: usize,
        /// The operation.
        operation: &'static str,
        /// What went wrong, which ranks are silent, and what to do.
        reason: String,
    },
}
