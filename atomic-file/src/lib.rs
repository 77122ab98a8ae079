//! Files and folders that are complete or absent, whenever the program or the machine stops.
//!
//! The content goes to a temporary name in the same folder, created exclusively, and is renamed when it is on the disk.

use std::fs::{self, File};
use std::io::{self, BufWriter, Write};
use std::path::{Path, PathBuf};

use tempfile::{NamedTempFile, TempDir};

/// A file that appears under its name with [`commit`](Self::commit). Dropped before, it leaves nothing behind.
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
    /// Opens a temporary file beside `path`.
    ///
    /// # Errors
    /// Those of the file system.
    pub fn create(path: impl Into<PathBuf>) -> io::Result<Self> {
        let path = path.into();
        let mut builder = tempfile::Builder::new();
        #[cfg(unix)]
        {
            use std::os::unix::fs::PermissionsExt;
            // As of any new file, and not for this user alone. The process's umask still applies.
            builder.permissions(fs::Permissions::from_mode(0o666));
        }
        let file = builder.prefix(".partial-").tempfile_in(folder_of(&path))?;
        Ok(Self { path, file: BufWriter::with_capacity(1 << 20, file) })
    }

    /// Puts the file on the disk under its name, in place of one that is there.
    ///
    /// # Errors
    /// Those of the file system.
    pub fn commit(self) -> io::Result<()> {
        let file = self.file.into_inner().map_err(io::IntoInnerError::into_error)?;
        file.as_file().sync_all()?;
        file.persist(&self.path).map_err(|error| error.error)?;
        sync_folder(folder_of(&self.path))
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

/// Writes a file in one go; see [`AtomicFile`].
///
/// # Errors
/// Those of the file system.
pub fn write(path: impl Into<PathBuf>, content: impl AsRef<[u8]>) -> io::Result<()> {
    let mut file = AtomicFile::create(path)?;
    file.write_all(content.as_ref())?;
    file.commit()
}

/// Lets `fill` fill a temporary folder, which then takes the place of `path`, whatever was there.
///
/// # Errors
/// Those of `fill` and of the file system.
pub fn write_folder<E: From<io::Error>>(path: &Path, fill: impl FnOnce(&Path) -> Result<(), E>) -> Result<(), E> {
    let parent = folder_of(path);
    let folder: TempDir = tempfile::Builder::new().prefix(".partial-").tempdir_in(parent)?;
    #[cfg(unix)]
    {
        use std::os::unix::fs::PermissionsExt;
        fs::set_permissions(folder.path(), fs::Permissions::from_mode(0o755))?;
    }
    fill(folder.path())?;
    for entry in fs::read_dir(folder.path())? {
        File::open(entry?.path())?.sync_all()?;
    }
    sync_folder(folder.path())?;
    if path.exists() {
        fs::remove_dir_all(path)?;
    }
    fs::rename(folder.path(), path)?;
    let _ = folder.keep(); // It has another name now.
    Ok(sync_folder(parent)?)
}

/// Renames a file within its file system, and returns when the disk knows.
///
/// # Errors
/// Those of the file system.
pub fn rename(from: &Path, to: &Path) -> io::Result<()> {
    fs::rename(from, to)?;
    sync_folder(folder_of(to))?;
    if folder_of(from) != folder_of(to) {
        sync_folder(folder_of(from))?;
    }
    Ok(())
}

/// Makes what was created, renamed and removed in a folder survive a power cut.
///
/// # Errors
/// Those of the file system.
pub fn sync_folder(folder: &Path) -> io::Result<()> {
    // Elsewhere a folder cannot be opened as a file.
    if cfg!(unix) { File::open(folder)?.sync_all() } else { Ok(()) }
}

fn folder_of(path: &Path) -> &Path {
    path.parent().filter(|parent| !parent.as_os_str().is_empty()).unwrap_or(Path::new("."))
}
