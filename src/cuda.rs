//! Makes a GPU visible to every program that links this crate.
//!
//! The linker drops `libtorch_cuda.so`, because no symbol of it is used by name, and then CUDA is silently "not
//! available". Linking it by force would keep programs from starting where the library or the CUDA libraries it needs
//! are absent. So it is loaded before `main`, with the search path that found libtorch. Where that fails, the program
//! runs on the CPU.

#[cfg(all(target_os = "linux", not(feature = "doc-only")))]
#[used]
#[unsafe(link_section = ".init_array")]
static LOAD: extern "C" fn() = {
    extern "C" fn load() {
        // SAFETY: the name is a valid C string, and the dynamic linker has finished with the program's own libraries
        // when it runs `.init_array`.
        unsafe { libc::dlopen(c"libtorch_cuda.so".as_ptr(), libc::RTLD_LAZY | libc::RTLD_GLOBAL) };
    }
    load
};
