//! Compiles `cpp/c10d.cpp` against the headers of the libtorch that torch-sys has found, and tells our own examples,
//! tests and benches, and dependents, where that libtorch is.

use std::path::{Path, PathBuf};

/// The headers that `cpp/c10d.cpp` includes. The wheels of torch have them; a stripped libtorch may not.
const HEADERS: [&str; 4] = [
    "torch/csrc/distributed/c10d/PrefixStore.hpp",
    "torch/csrc/distributed/c10d/ProcessGroupGloo.hpp",
    "torch/csrc/distributed/c10d/TCPStore.hpp",
    "torch/csrc/distributed/c10d/reducer.hpp",
];

fn main() {
    println!("cargo:rerun-if-changed=build.rs");
    println!("cargo:rerun-if-changed=cpp");
    println!("cargo:rerun-if-env-changed=LIBTORCH_INCLUDE");
    println!("cargo:rerun-if-env-changed=LIBTORCH_CXX11_ABI");
    // Set by torch-sys on Linux and macOS; absent with `doc-only`.
    let Ok(lib) = std::env::var("DEP_TCH_LIBTORCH_LIB") else { return };
    let include = include_folder(Path::new(&lib));
    if let Some(missing) = HEADERS.iter().find(|header| !include.join(header).exists()) {
        eprintln!(
            "tch-c10d: {} has no {missing}; use the libtorch of the wheels of torch (pip install torch), or name a \
             folder that has it with LIBTORCH_INCLUDE",
            include.display()
        );
        std::process::exit(1);
    }
    cc::Build::new()
        .cpp(true)
        .std("c++17")
        .warnings(false)
        .define("_GLIBCXX_USE_CXX11_ABI", &*std::env::var("LIBTORCH_CXX11_ABI").unwrap_or_else(|_| "1".into()))
        .include(&include)
        .include(include.join("torch/csrc/api/include"))
        // Behind those of libtorch, which may bring Gloo's own headers.
        .include("cpp")
        .file("cpp/c10d.cpp")
        .compile("tch_c10d");
    println!("cargo:rustc-link-arg=-Wl,-rpath,{lib}");
    println!("cargo:libtorch_lib={lib}");
}

/// As torch-sys finds it: `LIBTORCH_INCLUDE` names the folder above `include`, which otherwise is beside `lib`.
fn include_folder(lib: &Path) -> PathBuf {
    match std::env::var_os("LIBTORCH_INCLUDE") {
        Some(folder) => PathBuf::from(folder).join("include"),
        None => lib.with_file_name("include"),
    }
}
