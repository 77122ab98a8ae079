//! Files that an argument names and that must not exist yet: they are complete or absent, and replace nothing.

use std::io::{self, Write};
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, ensure};
use figa_atomic_file::AtomicFile;

/// Refuses a path that exists already, even as a link to nothing. `argument` is the flag that
/// names it.
pub fn check_absent(argument: &str, path: &Path) -> Result<()> {
    ensure!(!is_taken(path), "{argument}: {} already exists: name another file, or remove it", path.display());
    Ok(())
}

/// Whether something has this name.
pub fn is_taken(path: &Path) -> bool {
    path.symlink_metadata().is_ok()
}

/// Refuses a file to write that is also one to read, or the same as another one to write, however the paths are spelled.
/// `out` and `rejected` are what `--out` and `--skip-bad` make a run write.
pub fn check_distinct(inputs: &[PathBuf], out: &[PathBuf], rejected: &[PathBuf]) -> Result<()> {
    let of_out = out.iter().map(|path| ("--out", path));
    let outputs: Vec<_> = of_out.chain(rejected.iter().map(|path| ("--skip-bad", path))).collect();
    let read: Vec<PathBuf> = inputs.iter().map(|path| resolved(path)).collect();
    let written: Vec<PathBuf> = outputs.iter().map(|(_, path)| resolved(path)).collect();
    for (at, (argument, path)) in outputs.iter().enumerate() {
        let path = path.display();
        // In a folder that is written, as well, and by a second name of the file.
        let is_same = |other: &PathBuf| other.starts_with(&written[at]) || is_same_file(other, &written[at]);
        ensure!(!read.iter().any(is_same), "{argument}: {path} is an input: name another file");
        let mut others = written.iter().enumerate().filter(|(other, _)| *other != at);
        ensure!(
            !others.any(|(_, other)| is_same(other)),
            "{argument}: {path} would be written twice: name another file"
        );
    }
    Ok(())
}

/// The one spelling of a path, which need not exist.
fn resolved(path: &Path) -> PathBuf {
    match (path.canonicalize(), path.parent(), path.file_name()) {
        (Ok(path), ..) => path,
        (_, Some(folder), Some(name)) if folder.as_os_str().is_empty() => resolved(Path::new(".")).join(name),
        (_, Some(folder), Some(name)) => resolved(folder).join(name),
        _ => path.into(),
    }
}

/// Whether two paths are names of one file. Neither is opened: one may be a pipe.
#[cfg(unix)]
fn is_same_file(a: &Path, b: &Path) -> bool {
    use std::os::unix::fs::MetadataExt;
    let id = |path: &Path| path.metadata().ok().map(|metadata| (metadata.dev(), metadata.ino()));
    id(a).is_some_and(|a| id(b) == Some(a))
}

#[cfg(not(unix))]
fn is_same_file(_: &Path, _: &Path) -> bool {
    false
}

/// A path with something appended to its name.
pub fn with_suffix(path: &Path, suffix: &str) -> PathBuf {
    let mut path = path.as_os_str().to_owned();
    path.push(suffix);
    path.into()
}

/// A file that appears under its name with [`commit`](Self::commit). Its errors name it.
pub struct NewFile {
    argument: &'static str,
    path: PathBuf,
    file: AtomicFile,
}

impl NewFile {
    pub fn create(argument: &'static str, path: &Path) -> Result<Self> {
        check_absent(argument, path)?;
        Self::create_again(argument, path)
    }

    /// The same for a run that is repeated: the file may exist already if its content is the same.
    pub fn create_again(argument: &'static str, path: &Path) -> Result<Self> {
        let file = AtomicFile::create(path).with_context(|| format!("{argument}: creating {}", path.display()))?;
        Ok(Self { argument, path: path.into(), file })
    }

    pub fn commit(self) -> Result<()> {
        match self.file.commit_new() {
            // Another program may have created it meanwhile.
            Err(error) if error.kind() == io::ErrorKind::AlreadyExists => check_absent(self.argument, &self.path),
            written => written.with_context(|| format!("{}: writing {}", self.argument, self.path.display())),
        }
    }

    fn name(&self, error: &io::Error) -> io::Error {
        io::Error::new(error.kind(), format!("{}: writing {}: {error}", self.argument, self.path.display()))
    }
}

impl Write for NewFile {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.file.write(bytes).map_err(|error| self.name(&error))
    }

    fn flush(&mut self) -> io::Result<()> {
        self.file.flush().map_err(|error| self.name(&error))
    }
}
