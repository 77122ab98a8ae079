//! Files that an argument names and that must not exist yet: they are complete or absent, and replace nothing.

use std::io::{self, Write};
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, ensure};
use figa_atomic_file::AtomicFile;

/// Refuses a path that exists already. `argument` is the flag that names it.
pub fn check_absent(argument: &str, path: &Path) -> Result<()> {
    ensure!(!path.exists(), "{argument}: {} already exists: name another file, or remove it", path.display());
    Ok(())
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
        let file = AtomicFile::create(path).with_context(|| format!("{argument}: creating {}", path.display()))?;
        Ok(Self { argument, path: path.into(), file })
    }

    pub fn commit(self) -> Result<()> {
        // Another program may have created it meanwhile.
        check_absent(self.argument, &self.path)?;
        self.file.commit().with_context(|| format!("{}: writing {}", self.argument, self.path.display()))
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
