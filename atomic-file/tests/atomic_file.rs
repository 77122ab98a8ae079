//! Files and folders are complete or absent.

use std::fs;
use std::io::{self, Write};
use std::path::{Path, PathBuf};

use figa_atomic_file::{AtomicFile, rename_new, write, write_folder};

/// The names in a folder, sorted.
fn names(folder: &Path) -> Vec<String> {
    let names = fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().file_name().into_string().unwrap());
    let mut names: Vec<String> = names.collect();
    names.sort();
    names
}

#[test]
fn a_file_appears_with_its_commit() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("a.txt");
    let mut file = AtomicFile::create(&path).unwrap();
    // More than the buffer, so that some of it is in the temporary file.
    file.write_all(&[b'x'; 3 << 20]).unwrap();
    file.flush().unwrap();
    let before = names(folder.path());
    assert!(before.len() == 1 && before[0].starts_with("a.txt.partial-"), "{before:?}");
    file.write_all(b"end").unwrap();
    file.commit().unwrap();
    assert_eq!(names(folder.path()), ["a.txt"]);
    let content = fs::read(&path).unwrap();
    assert!(content.len() == (3 << 20) + 3 && content.ends_with(b"xend"));
}

#[test]
fn a_file_without_a_commit_leaves_nothing() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("a.txt");
    fs::write(&path, "old").unwrap();
    let mut file = AtomicFile::create(&path).unwrap();
    file.write_all(b"new").unwrap();
    drop(file);
    assert_eq!(names(folder.path()), ["a.txt"]);
    assert_eq!(fs::read(&path).unwrap(), b"old");
}

#[test]
fn a_commit_replaces_the_old_file() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("a.txt");
    for content in ["old and longer", "new"] {
        write(&path, content).unwrap();
        assert_eq!(fs::read_to_string(&path).unwrap(), content);
    }
    assert_eq!(names(folder.path()), ["a.txt"]);
}

#[test]
fn a_failed_commit_leaves_what_was_there() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("taken");
    fs::create_dir(&path).unwrap();
    fs::write(path.join("inside"), "").unwrap();
    assert!(write(&path, "a file cannot replace a folder").is_err());
    assert_eq!((names(folder.path()), names(&path)), (vec!["taken".into()], vec!["inside".into()]));
}

#[test]
fn two_writers_do_not_mix() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("a.txt");
    let mut files = [AtomicFile::create(&path).unwrap(), AtomicFile::create(&path).unwrap()];
    for (file, content) in files.iter_mut().zip(["first", "second"]) {
        file.write_all(content.as_bytes()).unwrap();
    }
    let [first, second] = files;
    second.commit().unwrap();
    first.commit().unwrap();
    assert_eq!(fs::read_to_string(&path).unwrap(), "first");
    assert_eq!(names(folder.path()), ["a.txt"]);
}

#[test]
fn a_folder_appears_as_a_whole() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("model");
    let fill = |file: &'static str| {
        let path = path.clone();
        move |partial: &Path| {
            assert!(!path.join("nested").join(file).exists());
            fs::create_dir(partial.join("nested"))?;
            fs::write(partial.join("nested").join(file), file)
        }
    };
    write_folder(&path, fill("old.txt")).unwrap();
    write_folder(&path, fill("new.txt")).unwrap();
    assert_eq!(names(folder.path()), ["model"]);
    assert_eq!(names(&path.join("nested")), ["new.txt"]);
}

/// Somebody else finds the old folder or the new one at any time.
#[cfg(any(target_os = "linux", target_os = "macos"))]
#[test]
fn a_folder_is_replaced_in_one_step() {
    use std::sync::atomic::{AtomicBool, Ordering};

    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("model");
    let replace = |number: usize| write_folder(&path, |partial| fs::write(partial.join("number"), number.to_string()));
    replace(0).unwrap();
    let is_done = AtomicBool::new(false);
    std::thread::scope(|scope| {
        let missing = scope.spawn(|| {
            let mut missing = 0;
            while !is_done.load(Ordering::Relaxed) {
                missing += usize::from(!path.exists());
            }
            missing
        });
        (1..300).for_each(|number| replace(number).unwrap());
        is_done.store(true, Ordering::Relaxed);
        assert_eq!(missing.join().unwrap(), 0);
    });
    assert_eq!(fs::read_to_string(path.join("number")).unwrap(), "299");
    assert_eq!(names(folder.path()), ["model"]);
}

#[test]
fn a_folder_that_cannot_be_filled_leaves_the_old_one() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("model");
    write_folder(&path, |partial| fs::write(partial.join("old.txt"), "old")).unwrap();
    let error = write_folder(&path, |partial| {
        fs::write(partial.join("new.txt"), "new")?;
        Err(io::Error::other("no more"))
    });
    assert_eq!(error.unwrap_err().to_string(), "no more");
    assert_eq!((names(folder.path()), names(&path)), (vec!["model".into()], vec!["old.txt".into()]));
}

#[test]
fn a_folder_does_not_replace_a_file() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("taken");
    fs::write(&path, "mine").unwrap();
    assert!(write_folder(&path, |_| Ok::<_, io::Error>(())).is_err());
    assert_eq!(names(folder.path()), ["taken"]);
    assert_eq!(fs::read_to_string(&path).unwrap(), "mine");
}

#[test]
fn a_rename_moves_between_folders_and_replaces_nothing() {
    let folder = tempfile::tempdir().unwrap();
    // Mostly another file system, in memory.
    let other =
        tempfile::tempdir_in(if Path::new("/dev/shm").exists() { "/dev/shm".into() } else { std::env::temp_dir() });
    let other = other.unwrap();
    for to in [folder.path(), other.path()] {
        let (from, to) = (folder.path().join("from"), to.join("b"));
        fs::create_dir(&from).unwrap();
        let from = from.join("a");
        fs::write(&from, "new").unwrap();
        rename_new(&from, &to).unwrap();
        assert_eq!((from.exists(), fs::read_to_string(&to).unwrap()), (false, "new".into()));
        // Another content, of the same and of another length, and the same content.
        for (content, succeeds) in [("old", false), ("news", false), ("", false), ("new", true)] {
            fs::write(&from, content).unwrap();
            let renamed = rename_new(&from, &to).map_err(|error| error.kind());
            assert_eq!(renamed, if succeeds { Ok(()) } else { Err(io::ErrorKind::AlreadyExists) });
            assert_eq!((from.exists(), fs::read_to_string(&to).unwrap()), (!succeeds, "new".into()));
        }
        assert_eq!(rename_new(&from, &to.with_extension("new")).unwrap_err().kind(), io::ErrorKind::NotFound);
        fs::remove_dir(from.parent().unwrap()).unwrap();
    }
}

#[test]
fn a_new_file_replaces_nothing() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("a.txt");
    let commit = || {
        let mut file = AtomicFile::create(&path).unwrap();
        file.write_all(b"new").unwrap();
        file.commit_new().map_err(|error| error.kind())
    };
    fs::write(&path, "old").unwrap();
    assert_eq!((commit(), fs::read_to_string(&path).unwrap()), (Err(io::ErrorKind::AlreadyExists), "old".into()));
    fs::remove_file(&path).unwrap();
    #[cfg(unix)]
    for target in ["nothing", "same.txt"] {
        fs::write(folder.path().join("same.txt"), "new").unwrap();
        std::os::unix::fs::symlink(folder.path().join(target), &path).unwrap();
        assert_eq!(commit(), Err(io::ErrorKind::AlreadyExists));
        assert!(path.is_symlink() && !folder.path().join("nothing").exists());
        fs::remove_file(&path).unwrap();
    }
    assert_eq!((commit(), commit(), fs::read_to_string(&path).unwrap()), (Ok(()), Ok(()), "new".into()));
}

#[test]
fn errors_are_those_of_the_file_system() {
    let folder = tempfile::tempdir().unwrap();
    let missing = folder.path().join("missing");
    let kind = |result: io::Result<()>| result.unwrap_err().kind();
    assert_eq!(kind(write(missing.join("a.txt"), "")), io::ErrorKind::NotFound);
    assert_eq!(kind(write_folder(&missing.join("a"), |_| Ok(()))), io::ErrorKind::NotFound);
    assert_eq!(kind(write(PathBuf::from("/"), "")), io::ErrorKind::InvalidInput);
    let error = write(missing.join("a.txt"), "").unwrap_err();
    assert!(!error.to_string().contains("partial"), "{error}");
    assert_eq!(kind(rename_new(&missing, &folder.path().join("new"))), io::ErrorKind::NotFound);
    assert_eq!(names(folder.path()), Vec::<String>::new());
}

/// A name without a folder is in the current one. Runs in a child process, which has a current folder of its own, and a
/// umask that is not the usual one.
#[cfg(unix)]
#[test]
fn permissions_follow_the_umask() {
    use std::os::unix::fs::PermissionsExt;
    use std::process::Command;

    const CHILD: &str = "FIGA_ATOMIC_FILE_CHILD";
    if std::env::var_os(CHILD).is_none() {
        for umask in ["022", "027", "077"] {
            let folder = tempfile::tempdir().unwrap();
            let script = format!("umask {umask} && exec \"$0\" --exact permissions_follow_the_umask");
            let mut command = Command::new("sh");
            command.arg("-c").arg(script).arg(std::env::current_exe().unwrap());
            let output = command.env(CHILD, "1").current_dir(folder.path()).output().unwrap();
            assert!(output.status.success(), "umask {umask}: {}", String::from_utf8_lossy(&output.stdout));
            assert_eq!(names(folder.path()), ["file", "folder", "plain file", "plain folder"]);
        }
        return;
    }
    fs::write("plain file", "").unwrap();
    fs::create_dir("plain folder").unwrap();
    write("file", "").unwrap();
    write_folder(Path::new("folder"), |_| Ok::<_, io::Error>(())).unwrap();
    let mode = |name: &str| fs::metadata(name).unwrap().permissions().mode();
    assert_eq!((mode("file"), mode("folder")), (mode("plain file"), mode("plain folder")));
}
