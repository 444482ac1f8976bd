//! Metadata: which sessions an owner has, read, changed and written under a lock.
//!
//! The file's time is when its last session expires. It is not looked at when reading: lua-resty-session may leave an
//! earlier one.

use sha2::{Digest as _, Sha256};

use super::{Directory, Error, lock, names};
use crate::metadata;

/// Locks that the metadata of a directory share: as many files of metadata are written at once, at most.
pub const LOCKS: usize = 16;

/// What becomes of an owner's sessions.
pub struct Change {
    /// The metadata's file.
    pub file: String,
    /// Items that are appended.
    pub items: Vec<u8>,
    pub current_time: u64,
}

impl Change {
    /// Makes the change, unless another has the lock; whether it did.
    pub fn try_make(&self, directory: &Directory) -> Result<bool, Error> {
        let Some(_lock) = lock::try_lock(directory, &names::lock(self.lock()))? else { return Ok(false) };
        let mut text = read(directory, &self.file)?;
        text.extend_from_slice(&self.items);
        // Who signs in must not pay for what is damaged: then the list begins anew.
        let compact = metadata::compact(&text, self.current_time)
            .or_else(|_| metadata::compact(&self.items, self.current_time))
            .map_err(|error| damaged(directory, &error))?;
        match compact.expiry {
            Some(expiry) => directory.write(&self.file, &compact.text, expiry)?,
            None => directory.remove(&self.file)?,
        }
        Ok(true)
    }

    /// Which of the locks it takes: by the file's name, the same in every process.
    pub fn lock(&self) -> usize {
        lock_of(&self.file)
    }
}

fn lock_of(file: &str) -> usize {
    usize::from(Sha256::digest(file)[0]) % LOCKS
}

/// An owner's live sessions: their keys, and when they expire, in seconds since the epoch.
pub fn live(directory: &Directory, file: &str, current_time: u64) -> Result<Vec<(String, u64)>, Error> {
    metadata::live(&read(directory, file)?, current_time).map_err(|error| damaged(directory, &error))
}

/// Removes metadata that hold no live session, if they are metadata; whether it did.
pub fn remove_expired(directory: &Directory, file: &str, current_time: u64) -> Result<bool, Error> {
    let Some(_lock) = lock::try_lock(directory, &names::lock(lock_of(file)))? else { return Ok(false) };
    let text = read(directory, file)?;
    let live = metadata::live(&text, current_time).map_err(|error| damaged(directory, &error))?;
    if text.is_empty() || !live.is_empty() {
        return Ok(false);
    }
    directory.remove(file).map(|()| true)
}

/// The whole items of a file. Behind the last one may stand what a write that broke off has left.
fn read(directory: &Directory, file: &str) -> Result<Vec<u8>, Error> {
    let mut text = directory.read(file, None)?.unwrap_or_default();
    text.truncate(memchr::memrchr(b';', &text).map_or(0, |at| at + 1));
    Ok(text)
}

fn damaged(directory: &Directory, cause: &crate::Error) -> Error {
    Error::Metadata { directory: directory.path().to_owned(), cause: cause.to_string() }
}
