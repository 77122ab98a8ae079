//! How processes meet: in a key-value store, which one of them or the launcher runs.

use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use crate::group::ranks;
use crate::{Error, Rendezvous, Result, raw};

/// How long a process that has seen an error waits for the reports of the others.
const REPORT_TIME: Duration = Duration::from_secs(2);

/// How many groups this process has made. All processes make them in the same order, so a number names a group.
static GROUPS: AtomicU64 = AtomicU64::new(0);

/// Meets the other processes in the store, and connects to them.
pub(crate) fn connect(rendezvous: &Rendezvous) -> Result<(raw::Store, raw::Group)> {
    check(rendezvous)?;
    let Rendezvous { rank, world_size, timeout, .. } = *rendezvous;
    let address = format!("{}:{}", rendezvous.address, rendezvous.port);
    let failed = |reason: String| Error::Connect { rank, world_size, address: address.clone(), reason };
    let of_store = |message: String| failed(explain(&message));
    let deadline = Deadline::after(timeout);

    let number = GROUPS.fetch_add(1, Ordering::Relaxed);
    let prefix = format!("tch-c10d/{}/{number}", rendezvous.restarts);
    let serve = rank == 0 && !rendezvous.agent_store;
    let store = raw::Store::connect(&rendezvous.address, rendezvous.port, &prefix, serve, timeout).map_err(of_store)?;

    let expected = store.agree("world_size", world_size as i64, deadline.left()).map_err(of_store)?;
    if expected != world_size as i64 {
        return Err(failed(format!("another process expects {expected} processes; give all the same WORLD_SIZE")));
    }
    if store.add(&arrived(rank), 1, deadline.left()).map_err(of_store)? > 1 {
        return Err(failed(format!("another process has rank {rank} too; give each a RANK of its own")));
    }
    let missing = store.missing(world_size, arrived, &deadline).map_err(of_store)?;
    if !missing.is_empty() {
        let (who, seconds) = (ranks(&missing), timeout.as_secs_f64());
        return Err(failed(format!("{who} did not come in {seconds} s; see whether they run, and what they print")));
    }
    // All are there, so the time that waiting took does not count.
    let group = raw::Group::new(&store, rank, world_size, timeout);
    let reason = |message: String| format!("{}; see what the other ranks print, and restart all", one_line(&message));
    group.map(|group| (store, group)).map_err(|message| failed(reason(message)))
}

impl raw::Store {
    /// Reports an error of a process, and returns which processes do not.
    pub(crate) fn silent_ranks(&self, rank: usize, world_size: usize) -> raw::Result<Vec<usize>> {
        let deadline = Deadline::after(REPORT_TIME);
        self.set(&reported(rank), "", deadline.left())?;
        self.missing(world_size, reported, &deadline)
    }

    /// The processes whose keys do not exist before a deadline.
    fn missing(&self, world_size: usize, key: fn(usize) -> String, deadline: &Deadline) -> raw::Result<Vec<usize>> {
        let mut missing = vec![];
        for rank in 0..world_size {
            if !self.wait(&key(rank), deadline.left())? {
                missing.push(rank);
            }
        }
        Ok(missing)
    }
}

fn check(rendezvous: &Rendezvous) -> Result<()> {
    let Rendezvous { rank, world_size, timeout, .. } = *rendezvous;
    let error = |argument, expected: String, actual: String| Err(Error::Argument { argument, expected, actual });
    if world_size == 0 || i32::try_from(world_size).is_err() {
        return error("world_size", format!("1 to {}", i32::MAX), world_size.to_string());
    }
    if rank >= world_size {
        return error("rank", format!("less than the world size, {world_size}"), rank.to_string());
    }
    if timeout.is_zero() {
        return error("timeout", "more than 0 s".into(), "0 s".into());
    }
    Ok(())
}

struct Deadline(Instant);

impl Deadline {
    fn after(time: Duration) -> Self {
        let now = Instant::now();
        // A time that the clock cannot hold is as good as a year.
        Self(now.checked_add(time).unwrap_or_else(|| now + Duration::from_secs(365 * 24 * 3600)))
    }

    fn left(&self) -> Duration {
        self.0.saturating_duration_since(Instant::now())
    }
}

/// The key of a process that has arrived.
fn arrived(rank: usize) -> String {
    format!("arrived/{rank}")
}

/// The key of a process that has seen an error.
fn reported(rank: usize) -> String {
    format!("reported/{rank}")
}

/// What to do about an error of the store.
fn explain(message: &str) -> String {
    if message.contains("EADDRINUSE") {
        return "the port is in use; choose another MASTER_PORT".into();
    }
    format!("{}; see whether rank 0 runs, and whether all ranks have its address and port", one_line(message))
}

/// The first line of a message of c10d, without places in its sources.
pub(crate) fn one_line(message: &str) -> String {
    let mut line = message.lines().next().unwrap_or_default().to_owned();
    while let Some(start) = line.find("[/") {
        let Some(end) = line[start..].find("] ") else { break };
        line.replace_range(start..start + end + 2, "");
    }
    line.trim_end_matches(['.', ' ']).into()
}

#[cfg(test)]
mod tests {
    use super::one_line;

    #[test]
    fn messages_are_one_line_without_places_in_sources() {
        let message =
            "Gloo failed with [/pytorch/third_party/gloo/pair.cc:547] Connection closed by peer [127.0.0.1]:1.\nframe";
        assert_eq!(one_line(message), "Gloo failed with Connection closed by peer [127.0.0.1]:1");
        assert_eq!(one_line("[/a/b.cc:1] x [/unclosed"), "x [/unclosed");
        assert_eq!(one_line(""), "");
    }
}
