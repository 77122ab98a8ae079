//! Syncs a file that grows by small pieces to the disk, many pieces at a time.

use std::fs::File;
use std::io;
use std::sync::mpsc::{Receiver, SyncSender, sync_channel};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

/// The pieces that may be waiting for a sync while another one is running.
const BATCH_PIECES: usize = 256;

/// How long a piece may wait for others to be synced with it.
const BATCH_TIME: Duration = Duration::from_secs(1);

/// A thread that syncs. What a power failure may lose was written in the last second, and is at most two batches.
pub struct Syncer {
    pieces: SyncSender<()>,
    thread: Option<JoinHandle<io::Result<()>>>,
}

impl Syncer {
    pub fn new(file: File) -> Self {
        let (pieces, waiting) = sync_channel(BATCH_PIECES);
        Self { pieces, thread: Some(thread::spawn(move || sync_batches(&waiting, || file.sync_data()))) }
    }

    /// Says that a piece has been written. Returns the error of an earlier sync, if there was one.
    pub fn written(&mut self) -> io::Result<()> {
        if self.pieces.send(()).is_ok() {
            return Ok(());
        }
        let ended = self.thread.take().and_then(|thread| thread.join().ok());
        ended.unwrap_or_else(|| Err(io::Error::other("the file is no longer synced")))
    }
}

fn sync_batches(pieces: &Receiver<()>, mut sync: impl FnMut() -> io::Result<()>) -> io::Result<()> {
    while pieces.recv().is_ok() {
        let end = Instant::now() + BATCH_TIME;
        let next = || pieces.recv_timeout(end.saturating_duration_since(Instant::now())).is_ok();
        let _ = (1..BATCH_PIECES).take_while(|_| next()).count();
        sync()?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use std::io;
    use std::sync::mpsc::sync_channel;

    use super::{BATCH_PIECES, Syncer, sync_batches};

    #[test]
    fn many_pieces_share_a_sync_and_none_is_left_out() {
        for (pieces, expected) in [(0, 0), (1, 1), (BATCH_PIECES, 1), (BATCH_PIECES + 1, 2), (10 * BATCH_PIECES, 10)] {
            let (sender, receiver) = sync_channel(pieces);
            (0..pieces).for_each(|_| sender.send(()).unwrap());
            drop(sender);
            let mut syncs = 0;
            let sync = || {
                syncs += 1;
                Ok(())
            };
            sync_batches(&receiver, sync).unwrap();
            assert_eq!(syncs, expected, "{pieces} pieces");
        }
    }

    #[test]
    fn an_error_of_a_sync_reaches_the_writer() {
        let (pieces, waiting) = sync_channel(1);
        let thread = std::thread::spawn(move || sync_batches(&waiting, || Err(io::Error::other("disk full"))));
        let mut syncer = Syncer { pieces, thread: Some(thread) };
        // The thread takes a batch, and then ends.
        let error = (0..=2 * BATCH_PIECES).find_map(|_| syncer.written().err()).unwrap();
        assert_eq!(error.to_string(), "disk full");
    }
}
