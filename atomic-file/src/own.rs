//! Files and folders that are this user's own: no link to something else, no pipe, nothing of another user.

use std::fs::{self, File, Metadata, OpenOptions};
use std::io;
use std::path::Path;

/// Opens a file that exists, unless it is a link or has a second name, belongs to another user, or is no regular file.
/// A person who can plant one of those could otherwise let a program read or write another file than it names.
///
/// ```
/// use std::fs::{self, OpenOptions};
///
/// use figa_atomic_file::open_own;
///
/// # let folder = tempfile::tempdir()?;
/// let (file, name) = (folder.path().join("thesis.txt"), folder.path().join("second-name"));
/// fs::write(&file, "mine")?;
/// assert!(open_own(&file, OpenOptions::new().write(true)).is_ok());
/// fs::hard_link(&file, &name)?;
/// # #[cfg(unix)]
/// assert!(open_own(&name, OpenOptions::new().write(true)).is_err());
/// # Ok::<(), std::io::Error>(())
/// ```
///
/// # Errors
/// Those of the file system, and [`io::ErrorKind::PermissionDenied`] for what is not such a file.
pub fn open_own(path: &Path, options: &OpenOptions) -> io::Result<File> {
    // Before it is opened, as the options may cut it.
    check_file(&fs::symlink_metadata(path)?)?;
    let mut options = options.clone();
    #[cfg(unix)]
    {
        use rustix::fs::OFlags;
        use std::os::unix::fs::OpenOptionsExt;
        // To open a pipe would wait for its other end.
        options.custom_flags((OFlags::NOFOLLOW | OFlags::NONBLOCK).bits() as i32);
    }
    let file = options.open(path)?;
    check_file(&file.metadata()?)?;
    Ok(file)
}

/// Checks that a path is a folder of this user, and no link to one.
///
/// ```
/// # let folder = tempfile::tempdir()?;
/// figa_atomic_file::check_own_folder(folder.path())?;
/// assert!(figa_atomic_file::check_own_folder(&folder.path().join("none")).is_err());
/// # Ok::<(), std::io::Error>(())
/// ```
///
/// # Errors
/// Those of the file system, and [`io::ErrorKind::PermissionDenied`] for what is not such a folder.
pub fn check_own_folder(path: &Path) -> io::Result<()> {
    let metadata = fs::symlink_metadata(path)?;
    if metadata.is_symlink() {
        return refuse("it is a link");
    }
    if !metadata.is_dir() {
        return refuse("it is no folder");
    }
    check_owner(&metadata)
}

fn check_file(metadata: &Metadata) -> io::Result<()> {
    if metadata.is_symlink() {
        return refuse("it is a link");
    }
    if !metadata.is_file() {
        return refuse("it is no regular file");
    }
    #[cfg(unix)]
    if std::os::unix::fs::MetadataExt::nlink(metadata) > 1 {
        return refuse("the file has a second name (a hard link)");
    }
    check_owner(metadata)
}

#[cfg(unix)]
fn check_owner(metadata: &Metadata) -> io::Result<()> {
    let is_own = std::os::unix::fs::MetadataExt::uid(metadata) == rustix::process::geteuid().as_raw();
    if is_own { Ok(()) } else { refuse("it belongs to another user") }
}

#[cfg(not(unix))]
fn check_owner(_: &Metadata) -> io::Result<()> {
    Ok(())
}

fn refuse(reason: &'static str) -> io::Result<()> {
    Err(io::Error::new(io::ErrorKind::PermissionDenied, reason))
}
