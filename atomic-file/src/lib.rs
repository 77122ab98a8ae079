//! Files and folders that are complete or absent, even if the program is killed or the power fails.
//!
//! The content goes to a temporary name in the same folder, is synced to the disk, and is then renamed. A program that
//! is killed can leave a temporary file or folder behind, `NAME.partial-XXXXXX`, but never half of `NAME`.
//!
//! * [`write()`] writes a file in one call.
//! * [`AtomicFile`] is a writer, for content that is produced piece by piece.
//! * [`write_folder`] does the same for a folder of files; [`create_folder`] creates an empty one.
//! * [`rename_new`] moves a file that is already complete.
//! * [`open_own`] and [`check_own_folder`] refuse what another user or a link has put in the place of one's own file.
//!
//! All functions return the plain errors of the file system; the caller knows best what the file is for.

mod own;

use std::ffi::OsString;
use std::fs::{self, File};
use std::io::{self, BufRead, BufReader, BufWriter, ErrorKind, Write};
use std::path::{Path, PathBuf};

use tempfile::{NamedTempFile, TempPath};

pub use own::{check_own_folder, open_own};

/// Between the name of a file and what makes that of its temporary file unique.
const PARTIAL: &str = ".partial-";

/// Bytes that an [`AtomicFile`] collects before it writes them.
const BUFFER_BYTES: usize = 1 << 20;

/// A file that appears under its name with [`commit`](Self::commit). Dropping it without a commit discards it.
///
/// ```
/// use std::io::Write;
///
/// use figa_atomic_file::AtomicFile;
///
/// # let folder = tempfile::tempdir()?;
/// let path = folder.path().join("numbers.txt");
/// let mut file = AtomicFile::create(&path)?;
/// writeln!(file, "1 2 3")?;
/// assert!(!path.exists());
/// file.commit()?;
/// assert_eq!(std::fs::read_to_string(&path)?, "1 2 3\n");
/// # Ok::<(), std::io::Error>(())
/// ```
#[derive(Debug)]
pub struct AtomicFile {
    path: PathBuf,
    file: BufWriter<NamedTempFile>,
}

impl AtomicFile {
    /// Opens a temporary file next to `path`.
    ///
    /// # Errors
    /// If the temporary file cannot be created: the folder does not exist or is not writable, for example.
    pub fn create(path: impl Into<PathBuf>) -> io::Result<Self> {
        let path = path.into();
        let open = |temporary: &Path| File::options().write(true).create_new(true).open(temporary);
        let file = tempfile::Builder::new().prefix(&prefix(&path)?).make_in(parent(&path), open)?;
        Ok(Self { path, file: BufWriter::with_capacity(BUFFER_BYTES, file) })
    }

    /// Syncs the file to the disk and gives it its name, replacing any file of that name.
    ///
    /// # Errors
    /// If the rest of the content cannot be written, or the file cannot be synced or renamed. A file that had the name
    /// before is then unchanged.
    pub fn commit(self) -> io::Result<()> {
        let (path, file) = self.synced()?;
        file.persist(&path).map_err(|error| error.error)?;
        sync_folder(parent(&path))
    }

    /// Syncs the file to the disk and gives it its name, unless there is a file of that name with another content. One with
    /// the same content is left as it is: a program that was killed after the commit can commit again.
    ///
    /// ```
    /// use std::io::Write;
    ///
    /// use figa_atomic_file::AtomicFile;
    ///
    /// # let folder = tempfile::tempdir()?;
    /// let path = folder.path().join("numbers.txt");
    /// for (content, succeeds) in [("1 2 3", true), ("1 2 3", true), ("4", false)] {
    ///     let mut file = AtomicFile::create(&path)?;
    ///     file.write_all(content.as_bytes())?;
    ///     assert_eq!(file.commit_new().is_ok(), succeeds);
    /// }
    /// assert_eq!(std::fs::read_to_string(&path)?, "1 2 3");
    /// # Ok::<(), std::io::Error>(())
    /// ```
    ///
    /// # Errors
    /// Those of [`commit`](Self::commit), and [`io::ErrorKind::AlreadyExists`].
    pub fn commit_new(self) -> io::Result<()> {
        let (path, file) = self.synced()?;
        if let Err(error) = file.persist_noclobber(&path) {
            accept_same(error.error, error.file.path(), &path)?;
        }
        sync_folder(parent(&path))
    }

    fn synced(self) -> io::Result<(PathBuf, NamedTempFile)> {
        let file = self.file.into_inner().map_err(io::IntoInnerError::into_error)?;
        file.as_file().sync_all()?;
        Ok((self.path, file))
    }
}

impl Write for AtomicFile {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.file.write(bytes)
    }

    fn flush(&mut self) -> io::Result<()> {
        self.file.flush()
    }
}

/// Writes a file in one call, replacing any file of that name.
///
/// ```
/// # let folder = tempfile::tempdir()?;
/// let path = folder.path().join("state.json");
/// figa_atomic_file::write(&path, "{}")?;
/// assert_eq!(std::fs::read_to_string(&path)?, "{}");
/// # Ok::<(), std::io::Error>(())
/// ```
///
/// # Errors
/// Those of [`AtomicFile::create`] and [`AtomicFile::commit`].
pub fn write(path: impl Into<PathBuf>, content: impl AsRef<[u8]>) -> io::Result<()> {
    let mut file = AtomicFile::create(path)?;
    file.write_all(content.as_ref())?;
    file.commit()
}

/// Lets `fill` write files to a temporary folder, which then gets the name `path`. A folder of that name is replaced:
/// on Linux and macOS in one step, elsewhere with a moment in which there is none.
///
/// ```
/// use std::fs;
///
/// # let folder = tempfile::tempdir()?;
/// let path = folder.path().join("model");
/// figa_atomic_file::write_folder(&path, |partial| fs::write(partial.join("config.json"), "{}"))?;
/// assert_eq!(fs::read_to_string(path.join("config.json"))?, "{}");
/// # Ok::<(), std::io::Error>(())
/// ```
///
/// # Errors
/// Those of `fill`, and those of the file system. If `fill` fails, a folder that had the name before is unchanged.
pub fn write_folder<E: From<io::Error>>(path: &Path, fill: impl FnOnce(&Path) -> Result<(), E>) -> Result<(), E> {
    let mut builder = tempfile::Builder::new();
    // The default is a folder for this user only. As for any new folder, the umask still applies.
    #[cfg(unix)]
    builder.permissions(std::os::unix::fs::PermissionsExt::from_mode(0o777));
    let partial = builder.prefix(&prefix(path)?).tempdir_in(parent(path))?;
    fill(partial.path())?;
    sync_tree(partial.path())?;
    match fs::symlink_metadata(path) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => {
            fs::rename(partial.path(), path)?;
            // It no longer has the name that would be removed.
            let _ = partial.keep();
        }
        Err(error) => return Err(error.into()),
        Ok(metadata) if metadata.is_file() => return Err(io::Error::from(io::ErrorKind::NotADirectory).into()),
        Ok(_) => {
            exchange(partial.path(), path)?;
            sync_folder(parent(path))?;
            // The old folder.
            partial.close()?;
        }
    }
    Ok(sync_folder(parent(path))?)
}

/// Exchanges the names of two folders.
fn exchange(one: &Path, other: &Path) -> io::Result<()> {
    #[cfg(any(target_os = "linux", target_os = "macos"))]
    {
        use rustix::fs::{CWD, RenameFlags, renameat_with};
        use rustix::io::Errno;
        match renameat_with(CWD, one, CWD, other, RenameFlags::EXCHANGE) {
            // The file system or the kernel cannot do it.
            Err(Errno::INVAL | Errno::NOSYS | Errno::NOTSUP) => {}
            result => return Ok(result?),
        }
    }
    let other_folder = tempfile::Builder::new().prefix(&prefix(other)?).tempdir_in(parent(other))?;
    let old = other_folder.path().join("old");
    fs::rename(other, &old)?;
    fs::rename(one, other)?;
    fs::rename(&old, one)
}

/// Gives a file a new name, unless there is a file of that name with another content, and syncs the folders, so that the
/// name survives a power failure. A file of the same content is left as it is, and the old name removed: a program that
/// was killed meanwhile can do it again. Between file systems, the file is copied. Its content must be synced already.
///
/// ```
/// # let folder = tempfile::tempdir()?;
/// let (old, new) = (folder.path().join("old"), folder.path().join("new"));
/// figa_atomic_file::write(&old, "content")?;
/// figa_atomic_file::rename_new(&old, &new)?;
/// assert_eq!(std::fs::read_to_string(&new)?, "content");
/// figa_atomic_file::write(&old, "other content")?;
/// assert!(figa_atomic_file::rename_new(&old, &new).is_err());
/// assert_eq!(std::fs::read_to_string(&new)?, "content");
/// # Ok::<(), std::io::Error>(())
/// ```
///
/// # Errors
/// [`io::ErrorKind::AlreadyExists`], or those of the file system. The old name then remains.
pub fn rename_new(from: &Path, to: &Path) -> io::Result<()> {
    if let Err(error) = TempPath::try_from_path(from)?.persist_noclobber(to) {
        // It is no temporary file, which would be removed here.
        error.path.keep()?;
        if error.error.kind() == ErrorKind::CrossesDevices {
            let mut copy = AtomicFile::create(to)?;
            io::copy(&mut File::open(from)?, &mut copy)?;
            copy.commit_new()?;
        } else {
            accept_same(error.error, from, to)?;
        }
        fs::remove_file(from)?;
    }
    sync_folder(parent(to))?;
    sync_folder(parent(from))
}

/// Passes an error on, unless the new name is taken by a file of the same content.
fn accept_same(error: io::Error, from: &Path, to: &Path) -> io::Result<()> {
    let is_same = error.kind() == ErrorKind::AlreadyExists && has_same_content(from, to)?;
    if is_same { Ok(()) } else { Err(error) }
}

fn has_same_content(a: &Path, b: &Path) -> io::Result<bool> {
    let metadata = fs::symlink_metadata(b)?;
    if !metadata.is_file() || metadata.len() != fs::metadata(a)?.len() {
        return Ok(false);
    }
    let [mut a, mut b] = [BufReader::new(File::open(a)?), BufReader::new(File::open(b)?)];
    loop {
        let (left, right) = (a.fill_buf()?, b.fill_buf()?);
        let len = left.len().min(right.len());
        if left[..len] != right[..len] {
            return Ok(false);
        }
        if len == 0 {
            return Ok(left.len() == right.len());
        }
        a.consume(len);
        b.consume(len);
    }
}

/// Creates a folder that does not exist yet, and syncs the folder that holds it.
///
/// ```
/// # let folder = tempfile::tempdir()?;
/// figa_atomic_file::create_folder(&folder.path().join("new"))?;
/// assert!(figa_atomic_file::create_folder(&folder.path().join("new")).is_err());
/// # Ok::<(), std::io::Error>(())
/// ```
///
/// # Errors
/// [`io::ErrorKind::AlreadyExists`], or those of the file system.
pub fn create_folder(path: &Path) -> io::Result<()> {
    fs::create_dir(path)?;
    sync_folder(parent(path))
}

/// Syncs the entries of a folder to the disk: files that were created, renamed or removed there. Does nothing where a
/// folder cannot be opened as a file, which is everywhere but on Unix.
fn sync_folder(folder: &Path) -> io::Result<()> {
    if cfg!(unix) { File::open(folder)?.sync_all() } else { Ok(()) }
}

/// Syncs all files and folders in a folder, and the folder itself.
fn sync_tree(folder: &Path) -> io::Result<()> {
    for entry in fs::read_dir(folder)? {
        let entry = entry?;
        let kind = entry.file_type()?;
        if kind.is_dir() {
            sync_tree(&entry.path())?;
        } else if kind.is_file() {
            // Windows syncs only what is open for writing.
            File::options().read(true).write(cfg!(windows)).open(entry.path())?.sync_all()?;
        }
    }
    sync_folder(folder)
}

/// What a temporary file or folder of this package was to become, by its name: a program that was killed leaves it behind.
///
/// ```
/// assert_eq!(figa_atomic_file::name_of_partial("model.partial-3Fk2xQ"), Some("model"));
/// assert_eq!(figa_atomic_file::name_of_partial("model"), None);
/// ```
pub fn name_of_partial(name: &str) -> Option<&str> {
    name.split_once(PARTIAL).map(|(name, _)| name)
}

/// `NAME.partial-`, which begins the names of temporary files for `NAME`.
fn prefix(path: &Path) -> io::Result<OsString> {
    let name = path.file_name().ok_or_else(|| io::Error::new(ErrorKind::InvalidInput, "expected a file name"))?;
    let mut prefix = name.to_owned();
    prefix.push(PARTIAL);
    Ok(prefix)
}

fn parent(path: &Path) -> &Path {
    path.parent().filter(|parent| !parent.as_os_str().is_empty()).unwrap_or(Path::new("."))
}

/// The example of the README, compiled and run.
#[cfg(doctest)]
#[doc = include_str!("../README.md")]
struct Readme;
