//! Metadata: an owner's sessions, which are changed under a lock.
//!
//! The file's modification time is the expiry of its last session. Readers ignore it, because
//! lua-resty-session may leave an earlier one.

use sha2::{Digest as _, Sha256};

use super::{Directory, Error, lock, names};
use crate::{LiveSession, metadata};
use resty_session_core::time::Timestamp;

/// The number of locks for the metadata of a directory, and for the locks that requests hold. At
/// most this many of their files are written at the same time.
pub(super) const LOCKS: usize = 16;

/// A change of an owner's sessions.
pub(super) struct Change {
    /// The name of the metadata's file.
    pub file: String,
    /// The items to append.
    pub items: Vec<u8>,
    pub current_time: Timestamp,
}

impl Change {
    /// Makes the change. The caller holds the lock.
    pub(super) fn make(&self, directory: &Directory) -> Result<(), Error> {
        let mut text = read(directory, &self.file)?;
        text.extend_from_slice(&self.items);
        // A damaged file must not keep users from signing in: the list starts anew with these
        // items.
        let compact = metadata::compact(&text, self.current_time)
            .or_else(|_| metadata::compact(&self.items, self.current_time))
            .map_err(|error| damaged(directory, &error))?;
        match compact.expiry {
            Some(expiry) => directory.write(&self.file, &compact.text, expiry),
            None => directory.remove(&self.file),
        }
    }

    /// The number of the change's lock, which depends on the file's name alone, so that it is the
    /// same in every process.
    pub(super) fn lock(&self) -> usize {
        lock_of(&self.file)
    }
}

/// The number of the lock for changes of a file, by the file's name.
pub(super) fn lock_of(file: &str) -> usize {
    usize::from(Sha256::digest(file)[0]) % LOCKS
}

/// Returns an owner's sessions that have not expired.
pub(super) fn live(directory: &Directory, file: &str, current_time: Timestamp) -> Result<Vec<LiveSession>, Error> {
    metadata::live(&read(directory, file)?, current_time).map_err(|error| damaged(directory, &error))
}

/// Removes the file if it holds valid metadata whose sessions have all expired. Returns whether it
/// was removed.
pub(super) fn remove_expired(directory: &Directory, file: &str, current_time: Timestamp) -> Result<bool, Error> {
    let Some(_lock) = lock::try_lock(directory, &names::lock(lock_of(file)))? else { return Ok(false) };
    let text = read(directory, file)?;
    let live = metadata::live(&text, current_time).map_err(|error| damaged(directory, &error))?;
    if text.is_empty() || !live.is_empty() {
        return Ok(false);
    }
    directory.remove(file).map(|()| true)
}

/// Returns the complete items of a file. A write that was interrupted may have left an incomplete
/// one at the end.
fn read(directory: &Directory, file: &str) -> Result<Vec<u8>, Error> {
    let mut text = directory.read(file, None)?.unwrap_or_default();
    text.truncate(memchr::memrchr(b';', &text).map_or(0, |at| at + 1));
    Ok(text)
}

fn damaged(directory: &Directory, cause: &crate::Error) -> Error {
    Error::Metadata { directory: directory.path().to_owned(), cause: cause.to_string() }
}
