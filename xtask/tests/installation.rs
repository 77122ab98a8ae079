//! The scripts that install: pip checks hashes, and nothing is removed that they have not made.
#![cfg(unix)]

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::process::Command;

use xtask::root;

/// Stands in for Python: installs an empty torch, and notes what pip is asked for.
const PYTHON: &str = r#"#!/bin/sh
case "$*" in *"pip install"*) echo "$*" >> pip-arguments ;; esac
"#;

/// A copy of the script, with other programs in front of those of the system.
fn libtorch_folder() -> tempfile::TempDir {
    let folder = tempfile::tempdir().unwrap();
    fs::create_dir_all(folder.path().join("scripts")).unwrap();
    fs::copy(root().join("scripts/libtorch.sh"), folder.path().join("scripts/libtorch.sh")).unwrap();
    for (name, script) in [("python3", PYTHON), ("nvidia-smi", "#!/bin/sh\nexit 1\n")] {
        let path = folder.path().join("bin").join(name);
        fs::create_dir_all(folder.path().join("bin")).unwrap();
        fs::write(&path, script).unwrap();
        fs::set_permissions(&path, fs::Permissions::from_mode(0o755)).unwrap();
    }
    folder
}

/// The error of the script; empty if it succeeds.
fn libtorch(folder: &Path) -> String {
    let path = format!("{}:{}", folder.join("bin").display(), std::env::var("PATH").unwrap());
    let mut command = Command::new("sh");
    command.arg(folder.join("scripts/libtorch.sh")).env("PATH", path);
    let output = command.env_remove("LIBTORCH").env_remove("LIBTORCH_USE_PYTORCH").output().unwrap();
    let error = String::from_utf8(output.stderr).unwrap();
    if output.status.success() { String::new() } else { error }
}

#[test]
fn libtorch_is_installed_with_hashes() {
    let folder = libtorch_folder();
    assert_eq!(libtorch(folder.path()), "");
    let arguments = fs::read_to_string(folder.path().join("pip-arguments")).unwrap();
    assert!(arguments.contains("--require-hashes") && arguments.contains("scripts/libtorch/torch.txt"), "{arguments}");
    assert!(folder.path().join(".libtorch/installed").exists());
    // An older installation of the script is replaced.
    fs::write(folder.path().join(".libtorch/installed"), "0.0.1 cpu\n").unwrap();
    assert_eq!(libtorch(folder.path()), "");
    assert!(fs::read_to_string(folder.path().join(".libtorch/installed")).unwrap().ends_with(" cpu\n"));
    for (file, package) in [
        ("scripts/libtorch/torch.txt", "torch=="),
        ("scripts/libtorch/cpu.txt", "nvidia-cuda-runtime=="),
        ("scripts/libtorch/cuda.txt", "nvidia-cublas=="),
        ("examples/finetune/fetch_model.txt", "tokenizers=="),
    ] {
        let requirements = fs::read_to_string(root().join(file)).unwrap().replace("\\\n", " ");
        assert!(requirements.contains(package), "{file}");
        let packages = requirements.lines().filter(|line| !line.starts_with('#'));
        assert!(packages.clone().all(|line| line.contains("==") && line.contains("--hash=sha256:")), "{file}");
    }
}

#[test]
fn libtorch_of_somebody_else_stays() {
    let folder = libtorch_folder();
    let partial = folder.path().join(".libtorch.partial.mine");
    fs::create_dir(&partial).unwrap();
    // A process of this number does not exist.
    let stale = folder.path().join(".libtorch.partial.999999999");
    fs::create_dir(&stale).unwrap();
    fs::write(stale.join("made-by-libtorch.sh"), "").unwrap();
    fs::create_dir(folder.path().join(".libtorch")).unwrap();
    fs::write(folder.path().join(".libtorch/mine"), "").unwrap();
    let error = libtorch(folder.path());
    assert!(error.contains(".libtorch is not from this script"), "{error}");
    assert!(folder.path().join(".libtorch/mine").exists() && partial.exists() && !stale.exists());
}

#[test]
fn fetched_data_replace_nothing() {
    for script in ["fetch_model", "fetch_pairs"] {
        let folder = tempfile::tempdir().unwrap();
        let scratch = folder.path().join("out.part");
        let make = || {
            let code = format!("import pathlib, {script}; {script}.make_scratch(pathlib.Path('out.part'))");
            let mut python = Command::new("python3");
            python.args(["-B", "-c", &code]).env("PYTHONPATH", root().join("examples/finetune"));
            python.current_dir(folder.path()).output().unwrap()
        };
        fs::create_dir(&scratch).unwrap();
        fs::write(scratch.join("mine"), "").unwrap();
        let output = make();
        let error = String::from_utf8(output.stderr).unwrap();
        assert!(error.contains("out.part is not from this script"), "{error}");
        assert!(scratch.join("mine").exists());
        // What a killed run has left behind is replaced.
        fs::write(scratch.join(format!("made-by-{script}")), "").unwrap();
        assert!(make().status.success());
        assert!(!scratch.join("mine").exists());
    }
}
