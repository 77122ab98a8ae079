//! Panics of other crates on the files of strangers, as errors.

use std::any::Any;
use std::cell::Cell;
use std::panic::{self, AssertUnwindSafe};
use std::sync::Once;

thread_local!(static IS_GUARDED: Cell<bool> = const { Cell::new(false) });

/// Keeps panics that this crate turns into errors from the program's panic hook, which would print them.
///
/// A tokenizer may panic on a strange file or text, and so may the renderer of a chat template. That is an error of the
/// file or of the record, but the panic hook of the process is called all the same, and that of the standard library
/// prints a message. The crate itself never touches the hook. A program that reports errors in its own way calls this
/// once, after it has set a hook of its own: a hook in front of that one then leaves out these panics, and passes on all
/// others.
///
/// Further calls do nothing.
///
/// ```
/// figa_loss::hide_caught_panics();
/// ```
pub fn hide_caught_panics() {
    static HOOK: Once = Once::new();
    HOOK.call_once(|| {
        let hook = panic::take_hook();
        panic::set_hook(Box::new(move |info| {
            if !IS_GUARDED.get() {
                hook(info);
            }
        }));
    });
}

/// Runs a function; a panic is an error.
pub(super) fn guarded<T>(work: impl FnOnce() -> T) -> Result<T, String> {
    let before = IS_GUARDED.replace(true);
    let result = panic::catch_unwind(AssertUnwindSafe(work));
    IS_GUARDED.set(before);
    result.map_err(|panic| format!("it panics: {}", message(&*panic)))
}

fn message(panic: &(dyn Any + Send)) -> String {
    let text = panic.downcast_ref::<String>().map(String::as_str);
    let text = text.or_else(|| panic.downcast_ref::<&str>().copied()).unwrap_or("without a message");
    text.lines().next().unwrap_or_default().to_owned()
}
