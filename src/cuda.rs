//! Makes a GPU visible to every program that links this crate.
//!
//! The linker drops `libtorch_cuda.so`, because no symbol of it is used by name, and then CUDA is silently "not
//! available". Linking it by force would keep programs from starting where the library or the CUDA libraries it needs
//! are absent. So it is loaded before `main`, with the search path that found libtorch. Where that fails, the program
//! runs on the CPU.
//!
//! Loading it takes time and memory, so it is left out where no GPU could be used: without a driver of
//! NVIDIA, if `CUDA_VISIBLE_DEVICES` hides all GPUs, or with `FIGA_LOSS_CUDA=0`.

use std::ffi::OsStr;

/// What the driver of NVIDIA provides: on Linux, in a container that lacks its entries of `/proc`, and in WSL.
const DRIVERS: [&str; 3] = ["/proc/driver/nvidia", "/dev/nvidiactl", "/dev/dxg"];

/// Whether to load CUDA, given the value of an environment variable by its name, and whether a file exists.
fn is_wanted<S: AsRef<OsStr>>(variable: impl Fn(&str) -> Option<S>, exists: impl Fn(&str) -> bool) -> bool {
    let is = |name: &str, values: &[&str]| {
        variable(name).is_some_and(|value| values.iter().any(|expected| value.as_ref() == *expected))
    };
    !is("FIGA_LOSS_CUDA", &["0"]) && !is("CUDA_VISIBLE_DEVICES", &["", "-1"]) && DRIVERS.into_iter().any(exists)
}

#[used]
#[unsafe(link_section = ".init_array")]
static LOAD: extern "C" fn() = {
    extern "C" fn load() {
        if is_wanted(|name| std::env::var_os(name), |path| std::path::Path::new(path).exists()) {
            // SAFETY: the name is a valid C string, and the dynamic linker has finished with the program's own libraries
            // when it runs `.init_array`.
            unsafe { libc::dlopen(c"libtorch_cuda.so".as_ptr(), libc::RTLD_LAZY | libc::RTLD_GLOBAL) };
        }
    }
    load
};

#[cfg(test)]
mod tests {
    use super::{DRIVERS, is_wanted};

    #[test]
    fn cuda_is_loaded_only_where_a_gpu_can_be_used() {
        let wanted = |variables: &[(&str, &'static str)], driver: &str| {
            let variable = |name: &str| variables.iter().find(|(key, _)| *key == name).map(|(_, value)| *value);
            is_wanted(variable, |path| path == driver)
        };
        for driver in DRIVERS {
            assert!(wanted(&[], driver));
        }
        assert!(!wanted(&[], "/dev/null"), "no driver");
        for (name, value, expected) in [
            ("CUDA_VISIBLE_DEVICES", "", false),
            ("CUDA_VISIBLE_DEVICES", "-1", false),
            ("CUDA_VISIBLE_DEVICES", "0", true),
            ("CUDA_VISIBLE_DEVICES", "GPU-1,0", true),
            ("FIGA_LOSS_CUDA", "0", false),
            ("FIGA_LOSS_CUDA", "1", true),
            ("FIGA_LOSS_CUDA", "", true),
            ("OTHER", "0", true),
        ] {
            assert_eq!(wanted(&[(name, value)], DRIVERS[0]), expected, "{name}={value}");
        }
    }
}
