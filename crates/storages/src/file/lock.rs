//! Locks that hold between workers, and between hosts that share a directory: each is a file, locked as a whole.
//!
//! Lock files stay where they are, and are few. A lock ends when its handle is dropped, or its process ends.

use std::fs::{File, OpenOptions, TryLockError};
use std::io::ErrorKind;
use std::os::unix::fs::{MetadataExt, OpenOptionsExt};

use super::{Directory, Error};

/// How often a lock file is looked for that somebody else removes at the same time.
const ATTEMPTS: usize = 10;

/// Takes a lock; none where another has it.
pub fn try_lock(directory: &Directory, name: &str) -> Result<Option<File>, Error> {
    for _ in 0..ATTEMPTS {
        let Some(file) = open(directory, name)? else { continue };
        match file.try_lock() {
            Ok(()) => {}
            Err(TryLockError::WouldBlock) => return Ok(None),
            Err(TryLockError::Error(error)) => return Err(directory.io("lock a file")(error)),
        }
        // Where the file was removed meanwhile (some systems clear /tmp up), the next one locks another of that name.
        if file.metadata().map_err(directory.io("lock a file"))?.nlink() > 0 {
            return Ok(Some(file));
        }
    }
    Ok(None)
}

/// The lock's file, made where there is none; none where others make and remove it at the same time.
fn open(directory: &Directory, name: &str) -> Result<Option<File>, Error> {
    // Network shares lock only what is open for writing.
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
    fn one_has_it_until_the_handle_goes() {
        let temporary = tempfile::tempdir().unwrap();
        let directory = Directory::new(temporary.path().to_owned());
        let held = try_lock(&directory, "lock").unwrap();
        assert!(held.is_some());
        assert!(try_lock(&directory, "lock").unwrap().is_none());
        drop(held);
        assert!(try_lock(&directory, "lock").unwrap().is_some());
    }

    #[test]
    fn no_link_is_followed() {
        let temporary = tempfile::tempdir().unwrap();
        let directory = Directory::new(temporary.path().to_owned());
        std::os::unix::fs::symlink(temporary.path().join("elsewhere"), temporary.path().join("lock")).unwrap();
        assert!(try_lock(&directory, "lock").is_err());
        assert!(!temporary.path().join("elsewhere").exists());
    }
}
