//! Tells our own examples, tests and benches where libtorch is when they run, and hands the same path on to dependents.

fn main() {
    println!("cargo:rerun-if-changed=build.rs");
    // Set by torch-sys on Linux and macOS; absent without the feature `torch` and with `doc-only`.
    if let Ok(lib) = std::env::var("DEP_TCH_LIBTORCH_LIB") {
        println!("cargo:rustc-link-arg=-Wl,-rpath,{lib}");
        // A `rustc-link-arg` ends at this package. A dependent's build script finds the path in
        // DEP_FIGA_LOSS_LIBTORCH_LIB.
        println!("cargo:libtorch_lib={lib}");
    }
}
