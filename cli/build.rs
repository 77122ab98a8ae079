//! The command needs no libtorch. In a build of the whole workspace, however, the library has the features that its other
//! dependents ask for, and then the command has to find libtorch when it runs.

fn main() {
    println!("cargo:rerun-if-changed=build.rs");
    if let Ok(lib) = std::env::var("DEP_FIGA_LOSS_LIBTORCH_LIB") {
        println!("cargo:rustc-link-arg=-Wl,-rpath,{lib}");
    }
}
