//! Locks that requests hold: files whose content is the holder, and whose modification time is when
//! the lock expires. They are changed under the lock file that their name says, and are in [its
//! directory](lock::FileLock::directory), which is the one that is given to the functions here.

use super::{Directory, Error, lock, names, owners};
use resty_session_core::time::Timestamp;

/// Takes a lock that is free or has expired at `now`, or renews it for its holder, until `expiry`.
/// Returns whether the holder has it.
pub(super) fn lock(
    directory: &Directory,
    file: &str,
    holder: &str,
    (now, expiry): (Timestamp, Timestamp),
) -> Result<bool, Error> {
    if directory.read(file, Some(now))?.is_some_and(|held_by| held_by != holder.as_bytes()) {
        return Ok(false);
    }
    directory.write(file, holder.as_bytes(), expiry).map(|()| true)
}

/// Frees a lock if this holder has it.
pub(super) fn unlock(directory: &Directory, file: &str, holder: &str) -> Result<(), Error> {
    match directory.read(file, None)? {
        Some(held_by) if held_by == holder.as_bytes() => directory.remove(file),
        _ => Ok(()),
    }
}

/// Removes a lock that has expired at `now`. Returns whether it was removed: not if somebody else
/// holds the lock file, or has just taken the lock.
pub(super) fn remove_expired(directory: &Directory, file: &str, now: Timestamp) -> Result<bool, Error> {
    let number = owners::lock_of(file);
    let Some(_lock) = lock::try_lock(directory, &names::lock(number))? else { return Ok(false) };
    if directory.read(file, Some(now))?.is_some() {
        return Ok(false);
    }
    directory.remove(file).map(|()| true)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_lock_has_one_holder_until_it_expires_or_is_freed() {
        let temporary = tempfile::tempdir().unwrap();
        let directory = Directory::new(temporary.path().to_owned());
        let at = Timestamp::from_secs;
        let lock = |holder, now| lock(&directory, "held", holder, (at(now), at(now + 10))).unwrap();
        assert!(lock("one", 100) && !lock("another", 105) && lock("one", 105));
        assert!(!lock("another", 114), "it was renewed");
        assert!(!remove_expired(&directory, "held", at(114)).unwrap());
        assert!(lock("another", 115), "it has expired");
        unlock(&directory, "held", "one").unwrap();
        assert!(!lock("one", 116), "it is the other's");
        unlock(&directory, "held", "another").unwrap();
        assert!(lock("one", 117));
        assert!(remove_expired(&directory, "held", at(127)).unwrap());
        assert_eq!(directory.read("held", None).unwrap(), None);
    }
}
