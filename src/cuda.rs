//! CUDA for the programs that ask for it.

/// Lets libtorch use the GPUs of NVIDIA that the machine has, and returns whether there is one.
///
/// Call this first thing in `main`. On Linux the linker drops `libtorch_cuda.so`, because no symbol of it is used by
/// name, and then libtorch has no CUDA. This function opens the library that is beside the program's
/// `libtorch_cpu.so`. libtorch decides once whether it has CUDA: any question for a GPU, `manual_seed` and the first
/// backward pass make it decide, and after that this function comes too late.
///
/// Opening the library takes time and memory, so it is left out where no GPU could be used: without a driver of NVIDIA,
/// if `CUDA_VISIBLE_DEVICES` is empty or `-1`, and with `FIGA_LOSS_CUDA=0`. Where it cannot be opened, because CUDA's
/// libraries are missing, the program runs on the CPU. Further calls only return the answer. On other systems nothing
/// is opened, and the answer is that of the libtorch that the program was linked with.
///
/// ```
/// use figa_loss::tch::Device;
///
/// let has_gpu = figa_loss::load_cuda();
/// let device = Device::cuda_if_available();
/// assert_eq!(device.is_cuda(), has_gpu);
/// println!("training on {device:?}");
/// ```
pub fn load_cuda() -> bool {
    #[cfg(target_os = "linux")]
    library::open_once();
    tch::Cuda::is_available()
}

#[cfg(target_os = "linux")]
mod library {
    use std::ffi::{CStr, CString, OsStr, c_int, c_void};
    use std::os::unix::ffi::OsStrExt;
    use std::path::{Path, PathBuf};
    use std::sync::Once;

    /// What the driver of NVIDIA provides: on Linux, in a container that lacks its entries of `/proc`, and in WSL.
    const DRIVERS: [&str; 3] = ["/proc/driver/nvidia", "/dev/nvidiactl", "/dev/dxg"];

    pub(super) fn open_once() {
        static OPEN: Once = Once::new();
        OPEN.call_once(|| {
            if !is_wanted(|name| std::env::var_os(name), |path| Path::new(path).exists()) {
                return;
            }
            let path = path_of_libtorch().map(|path| path.with_file_name("libtorch_cuda.so"));
            if let Some(path) = path.and_then(|path| CString::new(path.into_os_string().into_encoded_bytes()).ok()) {
                // SAFETY: the path is a valid C string. The library's initialisers register it with the libtorch that
                // is beside it, as they do in a program that is linked with it.
                unsafe { libc::dlopen(path.as_ptr(), libc::RTLD_LAZY | libc::RTLD_GLOBAL) };
            }
        });
    }

    /// Whether a GPU may be used, given the value of an environment variable by its name, and whether a file exists.
    fn is_wanted<S: AsRef<OsStr>>(variable: impl Fn(&str) -> Option<S>, exists: impl Fn(&str) -> bool) -> bool {
        let is = |name: &str, values: &[&str]| {
            variable(name).is_some_and(|value| values.iter().any(|expected| value.as_ref() == *expected))
        };
        !is("FIGA_LOSS_CUDA", &["0"]) && !is("CUDA_VISIBLE_DEVICES", &["", "-1"]) && DRIVERS.into_iter().any(exists)
    }

    /// The `libtorch_cpu.so` of this process. Its folder is known even where `dlopen` would not search it: for a name
    /// without a folder, that uses the search path of the object that calls it, which may be a plugin without one.
    fn path_of_libtorch() -> Option<PathBuf> {
        unsafe extern "C" fn visit(library: *mut libc::dl_phdr_info, _: libc::size_t, found: *mut c_void) -> c_int {
            // SAFETY: the dynamic linker hands over a valid entry, whose name is null or a C string, and the pointer that
            // it was given below, which nothing else uses meanwhile.
            let (name, found) = unsafe { ((*library).dlpi_name, &mut *found.cast::<Option<PathBuf>>()) };
            if name.is_null() {
                return 0;
            }
            // SAFETY: not null, so a C string.
            let path = Path::new(OsStr::from_bytes(unsafe { CStr::from_ptr(name) }.to_bytes()));
            if path.file_name() == Some(OsStr::new("libtorch_cpu.so")) {
                *found = Some(path.to_owned());
            }
            c_int::from(found.is_some())
        }
        let mut found: Option<PathBuf> = None;
        // SAFETY: `visit` takes the pointer for what it is, and is not called after this call.
        unsafe { libc::dl_iterate_phdr(Some(visit), (&raw mut found).cast()) };
        found
    }

    #[cfg(test)]
    mod tests {
        use super::{DRIVERS, is_wanted, path_of_libtorch};

        #[test]
        fn cuda_is_opened_only_where_a_gpu_can_be_used() {
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

        #[test]
        fn libtorch_is_found_where_it_was_loaded_from() {
            // Otherwise the linker would drop libtorch from a program that uses nothing of it.
            tch::get_num_threads();
            let path = path_of_libtorch().expect("libtorch is loaded");
            assert!(path.is_absolute() && path.with_file_name("libc10.so").exists(), "{}", path.display());
        }

        /// A program that embeds this crate may not want CUDA.
        #[test]
        fn nothing_is_opened_before_the_call() {
            let is_open = || std::fs::read_to_string("/proc/self/maps").unwrap().contains("libtorch_cuda.so");
            assert!(!is_open());
            let has_gpu = crate::load_cuda();
            assert!(is_open() || !has_gpu);
            assert_eq!(crate::load_cuda(), has_gpu);
        }
    }
}
