//! The files of a directory: reading, writing atomically, shortening, removing. All functions
//! block.

use std::fs::{self, File, FileTimes, Metadata, OpenOptions};
use std::io::{self, ErrorKind, Read, Write};
use std::os::unix::fs::{MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use nix::errno::Errno;
use nix::fcntl::OFlag;
use tempfile::NamedTempFile;

use super::{Error, MAX_FILE_SIZE, names, private};
use crate::MAX_EXPIRY;
use resty_session_core::time::Timestamp;

/// The permissions of a file: only its owner may read and write it.
const FILE_MODE: u32 = 0o600;
/// How many random characters a temporary file's name has.
const RANDOM_SIZE: usize = 12;

/// A directory of session files.
pub(super) struct Directory {
    path: PathBuf,
    /// Whether its file system was seen to keep neither owners nor permissions.
    no_owners: AtomicBool,
}

impl Directory {
    pub(super) fn new(path: PathBuf) -> Self {
        Self { path, no_owners: AtomicBool::new(false) }
    }

    pub(super) fn path(&self) -> &Path {
        &self.path
    }

    pub(super) fn join(&self, name: &str) -> PathBuf {
        self.path.join(name)
    }

    /// Whether its file system was seen to keep neither owners nor permissions.
    pub(super) fn has_no_owners(&self) -> bool {
        self.no_owners.load(Ordering::Relaxed)
    }

    pub(super) fn note_no_owners(&self) {
        self.no_owners.store(true, Ordering::Relaxed);
    }

    /// Returns the directory where the locks are: this one, or one inside that only we can write
    /// in.
    ///
    /// # Errors
    ///
    /// There can be none.
    pub(super) fn of_locks(&self) -> Result<Self, Error> {
        private::path_of_locks(self).map(Self::new)
    }

    /// Returns the content of a file that expires after `expired`, or `None` if there is no such
    /// file.
    pub(super) fn read(&self, name: &str, expired: Option<Timestamp>) -> Result<Option<Vec<u8>>, Error> {
        let Some((file, metadata)) = self.open(name, OpenOptions::new().read(true))? else { return Ok(None) };
        if expired.is_some_and(|expired| expiry(&metadata) <= expired) {
            return Ok(None);
        }
        let size = self.allowed_size(metadata.size())?;
        read_up_to(file, size).map(Some).map_err(self.io("read"))
    }

    /// Opens a regular file, or returns `None` if it does not exist. Anything else under that name
    /// is an error: links are not followed, and a pipe does not block.
    pub(super) fn open(&self, name: &str, options: &mut OpenOptions) -> Result<Option<(File, Metadata)>, Error> {
        let flags = OFlag::O_NOFOLLOW | OFlag::O_NONBLOCK;
        let opened = options.custom_flags(flags.bits()).open(self.join(name));
        match opened.and_then(|file| file.metadata().map(|metadata| (file, metadata))) {
            Ok((file, metadata)) if metadata.is_file() => {
                if self.is_foreign(&metadata)? {
                    Err(self.foreign())
                } else {
                    Ok(Some((file, metadata)))
                }
            }
            Ok(_) => Err(self.not_a_file()),
            // Links; and pipes that nobody reads, and sockets.
            Err(error) if [Errno::ELOOP, Errno::ENXIO].iter().any(|no| error.raw_os_error() == Some(*no as i32)) => {
                Err(self.not_a_file())
            }
            Err(error) if error.kind() == ErrorKind::NotFound => self.absent(error, "read"),
            Err(error) => Err(self.refused(name, "read", error)),
        }
    }

    /// Whether a file is another user's, who has put it here; see [`private::is_foreign`].
    fn is_foreign(&self, file: &Metadata) -> Result<bool, Error> {
        if private::is_ours(file) {
            return Ok(false);
        }
        let directory = fs::metadata(&self.path).map_err(self.io("read"))?;
        Ok(private::is_foreign(file, &directory))
    }

    /// Returns the error of an act that the system refused, which may be because of whose the file
    /// is.
    fn refused(&self, name: &str, act: &'static str, error: io::Error) -> Error {
        let is_foreign = || {
            let found = fs::symlink_metadata(self.join(name)).ok()?;
            self.is_foreign(&found).ok()
        };
        match error.kind() {
            ErrorKind::PermissionDenied if is_foreign() == Some(true) => self.foreign(),
            _ => self.io(act)(error),
        }
    }

    /// Returns `None` for the error that a file does not exist, unless the directory does not exist
    /// either.
    fn absent<T>(&self, error: io::Error, act: &'static str) -> Result<Option<T>, Error> {
        if fs::metadata(&self.path).map_err(self.io(act))?.is_dir() {
            return Ok(None);
        }
        Err(self.io(act)(error))
    }

    /// Writes a file atomically: readers find either the former content and expiry or the new ones.
    pub(super) fn write(&self, name: &str, content: &[u8], expiry: Timestamp) -> Result<(), Error> {
        let file = self.prepare(content)?;
        self.replace(name, file, expiry)
    }

    /// Writes a file atomically if another one, `required`, exists and expires after `expired`.
    /// Returns whether it does.
    pub(super) fn write_if(
        &self,
        (required, expired): (&str, Timestamp),
        name: &str,
        content: &[u8],
        expiry: Timestamp,
    ) -> Result<bool, Error> {
        let file = self.prepare(content)?;
        // As late as possible: if `required` is removed after this, the file is written
        // nevertheless.
        if !self.exists(required, expired)? {
            return Ok(false);
        }
        self.replace(name, file, expiry).map(|()| true)
    }

    /// Rewrites a file if it exists and expires after `expired`. The new expiry is never later than
    /// the old one. Returns whether there was such a file.
    pub(super) fn update(
        &self,
        name: &str,
        content: &[u8],
        expiry: Timestamp,
        expired: Timestamp,
    ) -> Result<bool, Error> {
        let file = self.prepare(content)?;
        // As late as possible: a file that is removed or shortened after this is restored by the
        // write.
        let Some((_, metadata)) = self.open(name, OpenOptions::new().read(true))? else { return Ok(false) };
        let left = self::expiry(&metadata);
        if left <= expired {
            return Ok(false);
        }
        self.replace(name, file, left.min(expiry)).map(|()| true)
    }

    /// Whether a file exists and expires after `expired`.
    fn exists(&self, name: &str, expired: Timestamp) -> Result<bool, Error> {
        let found = self.open(name, OpenOptions::new().read(true))?;
        Ok(found.is_some_and(|(_, metadata)| self::expiry(&metadata) > expired))
    }

    /// Creates a temporary file with this content.
    fn prepare(&self, content: &[u8]) -> Result<NamedTempFile, Error> {
        self.allowed_size(content.len() as u64)?;
        let prepare = || {
            let mut file = tempfile::Builder::new()
                .prefix(&names::temporary(SystemTime::now()))
                .rand_bytes(RANDOM_SIZE)
                .make_in(&self.path, |path| {
                    OpenOptions::new().write(true).create_new(true).mode(FILE_MODE).open(path)
                })?;
            file.as_file_mut().write_all(content)?;
            Ok(file)
        };
        prepare().map_err(self.io("write"))
    }

    /// Sets the expiry of a temporary file and moves it to its name.
    fn replace(&self, name: &str, file: NamedTempFile, expiry: Timestamp) -> Result<(), Error> {
        let replace = || {
            file.as_file().set_times(FileTimes::new().set_modified(time(expiry)))?;
            let (file, temporary) = file.into_parts();
            // A network share may report only on closing that it is full.
            nix::unistd::close(file)?;
            temporary.persist(self.join(name)).map_err(io::Error::from)
        };
        replace().map_err(|error| self.refused(name, "write", error))
    }

    /// Lets a file expire at `expiry`, unless it expires earlier. It is not an error if the file
    /// does not exist.
    pub(super) fn shorten(&self, name: &str, expiry: Timestamp) -> Result<(), Error> {
        let Some((file, metadata)) = self.open(name, OpenOptions::new().read(true))? else { return Ok(()) };
        if self::expiry(&metadata) > expiry {
            file.set_times(FileTimes::new().set_modified(time(expiry))).map_err(self.io("write"))?;
        }
        Ok(())
    }

    /// Removes a file. It is not an error if the file does not exist.
    pub(super) fn remove(&self, name: &str) -> Result<(), Error> {
        match fs::remove_file(self.join(name)) {
            Ok(()) => Ok(()),
            Err(error) if error.kind() == ErrorKind::NotFound => self.absent::<()>(error, "remove").map(|_| ()),
            Err(error) => Err(self.refused(name, "remove", error)),
        }
    }

    /// Returns a function that makes an error of this directory from one of the system.
    pub(super) fn io(&self, act: &'static str) -> impl Fn(io::Error) -> Error {
        move |cause| Error::Io { act, directory: self.path.clone(), cause }
    }

    fn foreign(&self) -> Error {
        Error::Foreign { directory: self.path.clone() }
    }

    fn not_a_file(&self) -> Error {
        Error::NotAFile { directory: self.path.clone() }
    }

    fn allowed_size(&self, size: u64) -> Result<usize, Error> {
        let too_large = || Error::TooLarge { directory: self.path.clone(), size };
        usize::try_from(size).ok().filter(|size| *size <= MAX_FILE_SIZE).ok_or_else(too_large)
    }
}

/// Returns when a file expires, in seconds since the epoch: its modification time.
pub(super) fn expiry(metadata: &Metadata) -> Timestamp {
    Timestamp::from_secs(u64::try_from(metadata.mtime()).unwrap_or_default())
}

fn time(at: Timestamp) -> SystemTime {
    UNIX_EPOCH + Duration::from_secs(at.min(MAX_EXPIRY).as_secs())
}

/// Reads up to `size` bytes of a file, in as few system calls as possible.
fn read_up_to(mut file: File, size: usize) -> io::Result<Vec<u8>> {
    let mut content = vec![0; size];
    let mut filled = 0;
    while filled < size {
        match file.read(&mut content[filled..]) {
            Ok(0) => break,
            Ok(count) => filled += count,
            Err(error) if error.kind() == ErrorKind::Interrupted => {}
            Err(error) => return Err(error),
        }
    }
    content.truncate(filled);
    Ok(content)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(seconds: u64) -> Timestamp {
        Timestamp::from_secs(seconds)
    }
    use std::os::unix::fs::{PermissionsExt, symlink};

    fn directory() -> (tempfile::TempDir, Directory) {
        let temporary = tempfile::tempdir().unwrap();
        let directory = Directory::new(temporary.path().to_owned());
        (temporary, directory)
    }

    fn count(directory: &Directory) -> usize {
        fs::read_dir(directory.path()).unwrap().count()
    }

    #[test]
    fn a_file_can_be_read_until_it_expires() {
        let (_temporary, directory) = directory();
        for content in ["first", ""] {
            directory.write("file", content.as_bytes(), at(1000)).unwrap();
            assert_eq!(directory.read("file", Some(at(999))).unwrap().as_deref(), Some(content.as_bytes()));
            assert_eq!(directory.read("file", Some(at(1000))).unwrap(), None);
        }
        assert_eq!(fs::metadata(directory.join("file")).unwrap().permissions().mode() & 0o777, 0o600);
        directory.write("file", b"late", at(u64::MAX)).unwrap();
        assert!(directory.read("file", Some(at(1000))).unwrap().is_some());
        assert_eq!(count(&directory), 1);
    }

    #[test]
    fn shortening_never_lengthens() {
        let (_temporary, directory) = directory();
        directory.write("file", b"x", at(1000)).unwrap();
        for (expiry, expected) in [(2000, 1000), (500, 500), (700, 500)] {
            directory.shorten("file", at(expiry)).unwrap();
            assert_eq!(super::expiry(&fs::metadata(directory.join("file")).unwrap()), at(expected));
        }
        directory.shorten("absent", at(1)).unwrap();
    }

    #[test]
    fn only_an_existing_file_is_updated() {
        let (_temporary, directory) = directory();
        assert!(!directory.update("file", b"new", at(1000), at(0)).unwrap());
        assert_eq!(count(&directory), 0);
        directory.write("file", b"old", at(1000)).unwrap();
        assert!(!directory.update("file", b"new", at(2000), at(1000)).unwrap());
        assert_eq!(directory.read("file", None).unwrap().unwrap(), b"old");
        for (expiry, expected) in [(2000, 1000), (500, 500)] {
            assert!(directory.update("file", b"new", at(expiry), at(0)).unwrap());
            assert_eq!(directory.read("file", Some(at(expected - 1))).unwrap().unwrap(), b"new");
            assert_eq!(directory.read("file", Some(at(expected))).unwrap(), None);
        }
        assert_eq!(count(&directory), 1);
    }

    #[test]
    fn a_file_that_requires_another_is_written_only_if_that_exists_and_has_not_expired() {
        let (_temporary, directory) = directory();
        let write = |expired| directory.write_if(("old", at(expired)), "new", b"x", at(2000)).unwrap();
        assert!(!write(0));
        directory.write("old", b"x", at(1000)).unwrap();
        assert!(!write(1000));
        assert_eq!(count(&directory), 1, "the temporary file is left");
        assert!(write(999));
        assert_eq!(directory.read("new", Some(at(1999))).unwrap().unwrap(), b"x");
    }

    #[test]
    fn a_link_is_replaced_and_never_followed() {
        let (_temporary, directory) = directory();
        directory.write("other", b"other", at(1000)).unwrap();
        symlink("other", directory.join("file")).unwrap();
        assert!(matches!(directory.read("file", None), Err(Error::NotAFile { .. })));
        assert!(matches!(directory.shorten("file", at(1)), Err(Error::NotAFile { .. })));
        directory.write("file", b"own", at(1000)).unwrap();
        assert_eq!(directory.read("file", None).unwrap().unwrap(), b"own");
        assert_eq!(directory.read("other", Some(at(999))).unwrap().unwrap(), b"other");
    }

    #[test]
    fn a_failed_write_leaves_nothing_behind() {
        let (_temporary, directory) = directory();
        fs::create_dir(directory.join("file")).unwrap();
        let error = directory.write("file", b"x", at(1000)).unwrap_err().to_string();
        assert!(error.starts_with("unable to write in ") && error.contains("directory (os error"), "{error}");
        assert!(matches!(directory.read("file", None), Err(Error::NotAFile { .. })));
        assert!(directory.remove("file").is_err());
        assert_eq!(count(&directory), 1);
    }

    #[test]
    fn an_absent_file_is_not_an_error_unless_the_directory_is_absent() {
        let (temporary, directory) = directory();
        assert_eq!(directory.read("file", None).unwrap(), None);
        directory.remove("file").unwrap();
        drop(temporary);
        assert!(directory.read("file", None).is_err());
        assert!(directory.remove("file").is_err());
        assert!(directory.shorten("file", at(1)).is_err());
    }
}
