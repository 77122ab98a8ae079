//! Work without the GIL, on all cores, that Ctrl-C stops.

use std::panic;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::{self, RecvTimeoutError};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread;
use std::time::Duration;

use pyo3::exceptions::PyRuntimeError;
use pyo3::prelude::*;
use rayon::{ThreadPool, ThreadPoolBuilder};

/// How long Ctrl-C may have to wait.
const INTERVAL: Duration = Duration::from_millis(50);

/// Runs the work on another thread, and looks for signals meanwhile. After one, the call returns at once; the work ends when it
/// next reads the flag.
pub fn interruptible<T: Send + 'static>(
    py: Python<'_>,
    work: impl FnOnce(&AtomicBool) -> T + Send + 'static,
) -> PyResult<T> {
    let stop = Arc::new(AtomicBool::new(false));
    let (sender, receiver) = mpsc::channel();
    let flag = stop.clone();
    let worker = thread::spawn(move || {
        // The receiver is gone after Ctrl-C.
        let _ = sender.send(work(&flag));
    });
    // What is used without the GIL has to be Sync, which a receiver alone is not.
    let receiver = Mutex::new(receiver);
    loop {
        let result = py.detach(|| receiver.lock().unwrap_or_else(PoisonError::into_inner).recv_timeout(INTERVAL));
        match result {
            Ok(result) => return Ok(result),
            Err(RecvTimeoutError::Timeout) => {
                py.check_signals().inspect_err(|_| stop.store(true, Ordering::Relaxed))?
            }
            Err(RecvTimeoutError::Disconnected) => match worker.join() {
                Err(cause) => panic::resume_unwind(cause),
                Ok(()) => return Err(PyRuntimeError::new_err("the worker thread ended without a result")),
            },
        }
    }
}

/// The threads of this process. A process that was forked, as workers of `multiprocessing` are, has none of its parent's, and
/// waits for them for ever: it gets its own.
pub fn pool() -> PyResult<Arc<ThreadPool>> {
    static POOL: Mutex<Option<(u32, Arc<ThreadPool>)>> = Mutex::new(None);
    let mut pool = POOL.lock().unwrap_or_else(PoisonError::into_inner);
    let process = std::process::id();
    if let Some((owner, pool)) = &*pool
        && *owner == process
    {
        return Ok(pool.clone());
    }
    let threads = ThreadPoolBuilder::new().build().map_err(|error| PyRuntimeError::new_err(error.to_string()))?;
    let threads = Arc::new(threads);
    if let Some(parent) = pool.replace((process, threads.clone())) {
        // Dropping it would wait for its threads.
        std::mem::forget(parent);
    }
    Ok(threads)
}
