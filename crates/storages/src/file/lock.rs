//! Locks between workers, and between hosts that share a directory. Each lock is a file that is
//! locked as a whole.
//!
//! There are few lock files, and they are never removed. A lock is released when its handle is
//! dropped or its process ends.

use std::fs::{File, OpenOptions, TryLockError};
use std::io::ErrorKind;
use std::os::unix::fs::{MetadataExt, OpenOptionsExt};

use super::{Directory, Error};

/// How often to try to open a lock file that somebody else removes at the same time.
const OPEN_ATTEMPTS: usize = 10;

/// A lock. It is released when this is dropped.
pub(super) struct FileLock {
    directory: Directory,
    _file: File,
}

impl FileLock {
    /// Where the lock's file is, and those of the locks that requests hold.
    pub(super) fn directory(&self) -> &Directory {
        &self.directory
    }
}

/// Takes a lock for a directory's files, or returns `None` if another holds it.
///
/// # Errors
///
/// The lock file cannot be opened or locked.
pub(super) fn try_lock(directory: &Directory, name: &str) -> Result<Option<FileLock>, Error> {
    let directory = directory.of_locks()?;
    for _ in 0..OPEN_ATTEMPTS {
        let Some(file) = open(&directory, name)? else { continue };
        match file.try_lock() {
            Ok(()) => {}
            Err(TryLockError::WouldBlock) => return Ok(None),
            Err(TryLockError::Error(error)) => return Err(directory.io("lock a file")(error)),
        }
        // If the file was removed meanwhile (some systems clean /tmp), others lock a new file of
        // that name: try again.
        if file.metadata().map_err(directory.io("lock a file"))?.nlink() > 0 {
            return Ok(Some(FileLock { directory, _file: file }));
        }
    }
    Ok(None)
}

/// Opens the lock file, which is created if it does not exist. Returns `None` if others create and
/// remove it at the same time.
fn open(directory: &Directory, name: &str) -> Result<Option<File>, Error> {
    // Network shares can lock only files that are open for writing.
    if let Some((file, _)) = directory.open(name, OpenOptions::new().write(true))? {
        return Ok(Some(file));
    }
    match OpenOptions::new().write(true).create_new(true).mode(0o600).open(directory.join(name)) {
        Ok(file) => Ok(Some(file)),
        Err(error) if error.kind() == ErrorKind::AlreadyExists => Ok(None),
        Err(error) => Err(directory.io("lock a file")(error)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_lock_is_held_until_its_handle_is_dropped() {
        let temporary = tempfile::tempdir().unwrap();
        let directory = Directory::new(temporary.path().to_owned());
        let held = try_lock(&directory, "lock").unwrap();
        assert!(held.is_some());
        assert!(try_lock(&directory, "lock").unwrap().is_none());
        drop(held);
        assert!(try_lock(&directory, "lock").unwrap().is_some());
    }

    #[test]
    fn links_are_not_followed() {
        let temporary = tempfile::tempdir().unwrap();
        let directory = Directory::new(temporary.path().to_owned());
        std::os::unix::fs::symlink(temporary.path().join("elsewhere"), temporary.path().join("lock")).unwrap();
        assert!(try_lock(&directory, "lock").is_err());
        assert!(!temporary.path().join("elsewhere").exists());
    }
}
