//! The functions of `cpp/c10d.cpp`, each with a safe wrapper. All `unsafe` code of this crate is here.
//!
//! Three facts make the calls sound. A pointer in a wrapper comes from the C++ function that makes objects of its type,
//! is never null, and is freed once, in `drop`. The C++ functions catch all exceptions. They copy what they keep: an
//! `at::Tensor` counts references to its memory, so an operation that still runs holds the memory that it uses. The
//! wrappers stay on the thread that made them, because raw pointers are neither `Send` nor `Sync`.

use std::ffi::{CStr, CString, c_char, c_int, c_void};
use std::ptr::NonNull;
use std::time::Duration;

use tch::Tensor;
use torch_sys::C_tensor;

/// What c10d says of an error.
pub(crate) type Result<T> = std::result::Result<T, String>;

type Pointer = *mut c_void;

unsafe extern "C" {
    fn c10d_error() -> *const c_char;
    fn c10d_store_new(host: *const c_char, port: u16, prefix: *const c_char, serve: bool, limit_ms: i64) -> Pointer;
    fn c10d_store_set(store: Pointer, key: *const c_char, value: *const c_char, limit_ms: i64) -> bool;
    fn c10d_store_agree(store: Pointer, key: *const c_char, value: i64, agreed: *mut i64, limit_ms: i64) -> bool;
    fn c10d_store_add(store: Pointer, key: *const c_char, value: i64, sum: *mut i64, limit_ms: i64) -> bool;
    fn c10d_store_wait(store: Pointer, key: *const c_char, exists: *mut bool, limit_ms: i64) -> bool;
    fn c10d_store_free(store: Pointer);
    fn c10d_group_new(store: Pointer, rank: c_int, size: c_int, limit_ms: i64) -> Pointer;
    fn c10d_group_free(group: Pointer);
    fn c10d_all_reduce(group: Pointer, tensor: *mut C_tensor, max: bool) -> Pointer;
    fn c10d_broadcast(group: Pointer, tensor: *mut C_tensor, root: c_int) -> Pointer;
    fn c10d_all_gather(group: Pointer, output: *mut C_tensor, input: *mut C_tensor) -> Pointer;
    fn c10d_reduce_scatter(group: Pointer, output: *mut C_tensor, input: *mut C_tensor, max: bool) -> Pointer;
    fn c10d_send(group: Pointer, tensor: *mut C_tensor, peer: c_int, tag: c_int) -> Pointer;
    fn c10d_receive(group: Pointer, tensor: *mut C_tensor, peer: c_int, tag: c_int) -> Pointer;
    fn c10d_work_wait(work: Pointer) -> bool;
    fn c10d_work_free(work: Pointer);
    fn c10d_reducer_new(
        group: Pointer,
        parameters: *const *mut C_tensor,
        count: usize,
        bucket_bytes: usize,
        find_unused: bool,
    ) -> Pointer;
    fn c10d_reducer_arm(reducer: Pointer, loss: *mut C_tensor) -> bool;
    fn c10d_reducer_check(reducer: Pointer) -> bool;
    fn c10d_reducer_free(reducer: Pointer);
}

/// The message of the call that has just failed on this thread.
fn error() -> String {
    // SAFETY: a valid C string of this thread, which the next call may change, so it is copied.
    unsafe { CStr::from_ptr(c10d_error()) }.to_string_lossy().into_owned()
}

fn check(succeeded: bool) -> Result<()> {
    if succeeded { Ok(()) } else { Err(error()) }
}

fn c_string(text: &str) -> Result<CString> {
    CString::new(text).map_err(|_| format!("{text:?} holds a zero byte"))
}

fn c_int(number: usize) -> c_int {
    c_int::try_from(number).expect("ranks are checked when a group is made")
}

/// At least one millisecond, because zero means no limit.
fn milliseconds(time: Duration) -> i64 {
    i64::try_from(time.as_millis()).unwrap_or(i64::MAX).max(1)
}

/// c10d reads the handle, and copies it. What the operation writes is the memory behind it.
fn handle(tensor: &Tensor) -> *mut C_tensor {
    tensor.as_ptr().cast_mut()
}

/// A client of a key-value store, and the store itself if it serves. All calls end after a time limit.
#[derive(Debug)]
pub(crate) struct Store(NonNull<c_void>);

impl Store {
    pub(crate) fn connect(host: &str, port: u16, prefix: &str, serve: bool, limit: Duration) -> Result<Self> {
        let (host, prefix) = (c_string(host)?, c_string(prefix)?);
        // SAFETY: the call copies the strings.
        let raw = unsafe { c10d_store_new(host.as_ptr(), port, prefix.as_ptr(), serve, milliseconds(limit)) };
        NonNull::new(raw).map(Self).ok_or_else(error)
    }

    // SAFETY of the calls below: the pointer is valid. The call copies strings, and has written to a reference when it
    // returns.

    pub(crate) fn set(&self, key: &str, value: &str, limit: Duration) -> Result<()> {
        let (key, value) = (c_string(key)?, c_string(value)?);
        check(unsafe { c10d_store_set(self.0.as_ptr(), key.as_ptr(), value.as_ptr(), milliseconds(limit)) })
    }

    /// The value of the first process that calls this with the key.
    pub(crate) fn agree(&self, key: &str, value: i64, limit: Duration) -> Result<i64> {
        let (key, mut agreed) = (c_string(key)?, 0);
        check(unsafe { c10d_store_agree(self.0.as_ptr(), key.as_ptr(), value, &mut agreed, milliseconds(limit)) })?;
        Ok(agreed)
    }

    /// Adds to a number that begins at 0, and returns the sum.
    pub(crate) fn add(&self, key: &str, value: i64, limit: Duration) -> Result<i64> {
        let (key, mut sum) = (c_string(key)?, 0);
        check(unsafe { c10d_store_add(self.0.as_ptr(), key.as_ptr(), value, &mut sum, milliseconds(limit)) })?;
        Ok(sum)
    }

    /// Whether the key exists, now or before the limit.
    pub(crate) fn wait(&self, key: &str, limit: Duration) -> Result<bool> {
        let (key, mut exists) = (c_string(key)?, false);
        check(unsafe { c10d_store_wait(self.0.as_ptr(), key.as_ptr(), &mut exists, milliseconds(limit)) })?;
        Ok(exists)
    }
}

impl Drop for Store {
    fn drop(&mut self) {
        // SAFETY: made by `c10d_store_new`, and not used any more.
        unsafe { c10d_store_free(self.0.as_ptr()) }
    }
}

/// A process group.
#[derive(Debug)]
pub(crate) struct Group(NonNull<c_void>);

impl Group {
    pub(crate) fn new(store: &Store, rank: usize, size: usize, limit: Duration) -> Result<Self> {
        // SAFETY: the group keeps its own reference to the store.
        let raw = unsafe { c10d_group_new(store.0.as_ptr(), c_int(rank), c_int(size), milliseconds(limit)) };
        NonNull::new(raw).map(Self).ok_or_else(error)
    }

    // SAFETY of the calls below: the pointer is valid, as are the handles of tensors for the time of the call. c10d
    // copies the handles. Its threads write to a tensor that `crate::Work` borrows mutably until they have ended. Another
    // handle of the same memory (`shallow_clone`) could still read it, as tch allows with all that it writes in place.

    pub(crate) fn all_reduce(&self, tensor: &mut Tensor, max: bool) -> Result<Work> {
        Work::new(unsafe { c10d_all_reduce(self.0.as_ptr(), handle(tensor), max) })
    }

    pub(crate) fn broadcast(&self, tensor: &mut Tensor, root: usize) -> Result<Work> {
        Work::new(unsafe { c10d_broadcast(self.0.as_ptr(), handle(tensor), c_int(root)) })
    }

    pub(crate) fn all_gather(&self, output: &mut Tensor, input: &Tensor) -> Result<Work> {
        Work::new(unsafe { c10d_all_gather(self.0.as_ptr(), handle(output), handle(input)) })
    }

    pub(crate) fn reduce_scatter(&self, output: &mut Tensor, input: &Tensor, max: bool) -> Result<Work> {
        Work::new(unsafe { c10d_reduce_scatter(self.0.as_ptr(), handle(output), handle(input), max) })
    }

    pub(crate) fn send(&self, tensor: &Tensor, to: usize, tag: i32) -> Result<Work> {
        Work::new(unsafe { c10d_send(self.0.as_ptr(), handle(tensor), c_int(to), tag) })
    }

    pub(crate) fn receive(&self, tensor: &mut Tensor, from: usize, tag: i32) -> Result<Work> {
        Work::new(unsafe { c10d_receive(self.0.as_ptr(), handle(tensor), c_int(from), tag) })
    }
}

impl Drop for Group {
    fn drop(&mut self) {
        // SAFETY: made by `c10d_group_new`, and not used any more. Reducers have their own references to the group.
        unsafe { c10d_group_free(self.0.as_ptr()) }
    }
}

/// An operation on its way.
#[derive(Debug)]
pub(crate) struct Work(NonNull<c_void>);

impl Work {
    fn new(raw: Pointer) -> Result<Self> {
        NonNull::new(raw).map(Self).ok_or_else(error)
    }

    pub(crate) fn wait(&self) -> Result<()> {
        // SAFETY: the pointer is valid.
        check(unsafe { c10d_work_wait(self.0.as_ptr()) })
    }
}

impl Drop for Work {
    fn drop(&mut self) {
        // SAFETY: made by one of the operations, and not used any more.
        unsafe { c10d_work_free(self.0.as_ptr()) }
    }
}

/// DDP's reducer.
#[derive(Debug)]
pub(crate) struct Reducer(NonNull<c_void>);

impl Reducer {
    pub(crate) fn new(group: &Group, parameters: &[Tensor], bucket_bytes: usize, find_unused: bool) -> Result<Self> {
        let handles: Vec<*mut C_tensor> = parameters.iter().map(handle).collect();
        // SAFETY: there are as many handles as is said; the reducer copies them, and its reference to the group.
        let raw =
            unsafe { c10d_reducer_new(group.0.as_ptr(), handles.as_ptr(), handles.len(), bucket_bytes, find_unused) };
        NonNull::new(raw).map(Self).ok_or_else(error)
    }

    /// The next backward pass, of this loss, reduces gradients.
    pub(crate) fn arm(&self, loss: &Tensor) -> Result<()> {
        // SAFETY: pointer and handle are valid.
        check(unsafe { c10d_reducer_arm(self.0.as_ptr(), handle(loss)) })
    }

    /// Whether the last backward pass has reduced all gradients.
    pub(crate) fn check(&self) -> Result<()> {
        // SAFETY: the pointer is valid.
        check(unsafe { c10d_reducer_check(self.0.as_ptr()) })
    }
}

impl Drop for Reducer {
    fn drop(&mut self) {
        // SAFETY: made by `c10d_reducer_new`, and not used any more.
        unsafe { c10d_reducer_free(self.0.as_ptr()) }
    }
}
