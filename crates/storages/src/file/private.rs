//! Where locks are: in the directory itself, unless all users of the system may write there, as in
//! /tmp. There, anybody could make a lock's file before us, and keep us from locking it for ever.
//! So the locks are in a directory of our own inside.

use std::fs::{self, DirBuilder, Metadata};
use std::io::{self, ErrorKind};
use std::os::unix::fs::{DirBuilderExt, MetadataExt};
use std::path::{Path, PathBuf};

use nix::unistd::geteuid;

use super::{Directory, Error, names};

/// How many names a directory of our own may have, of which others may have taken some.
const NAMES: usize = 100;
/// Only its owner may enter, read and write it.
const MODE: u32 = 0o700;
/// What lets all users write in a directory.
const OTHERS_WRITE: u32 = 0o002;
/// What lets users remove and rename only their own files in a directory.
const STICKY: u32 = 0o1000;
/// What lets anybody but the owner do anything.
const NOT_OWNER: u32 = 0o077;

/// Whether all users of the system may write in a directory.
pub(super) fn is_open_to_all(directory: &Metadata) -> bool {
    directory.mode() & OTHERS_WRITE != 0
}

/// Whether all users who may write in a directory may also remove and rename each other's files
/// there.
pub(super) fn lets_all_remove(directory: &Metadata) -> bool {
    is_open_to_all(directory) && directory.mode() & STICKY == 0
}

/// Whether a file in a directory that is open to all is another user's, who then decides what
/// stands in it. Files of the directory's own user are not: that user may do anything there, and
/// some network shares show all files as theirs.
pub(super) fn is_foreign(file: &Metadata, directory: &Metadata) -> bool {
    is_open_to_all(directory) && !is_ours(file) && file.uid() != directory.uid()
}

/// Whether a file is of this process's user.
pub(super) fn is_ours(file: &Metadata) -> bool {
    file.uid() == geteuid().as_raw()
}

/// Returns the path where the locks for a directory are; it exists.
///
/// All processes of a user find the same one: the first of all that are ours. Others cannot make
/// one of those. They cannot remove or rename one either if the directory has the sticky bit, as
/// /tmp has.
pub(super) fn path_of_locks(directory: &Directory) -> Result<PathBuf, Error> {
    let path = directory.path();
    if directory.has_no_owners() || !is_open_to_all(&fs::metadata(path).map_err(directory.io("lock a file"))?) {
        return Ok(path.to_owned());
    }
    if let Some(found) = find(path) {
        return Ok(found);
    }
    match make(path).map_err(directory.io("lock a file"))? {
        Made::Private => find(path).ok_or_else(|| Error::NoLocks { directory: path.to_owned() }),
        Made::Nothing => Err(Error::NoLocks { directory: path.to_owned() }),
        Made::NotPrivate => {
            directory.note_no_owners();
            Ok(path.to_owned())
        }
    }
}

fn candidates(path: &Path) -> impl Iterator<Item = PathBuf> {
    (0..NAMES).map(|number| path.join(names::private(number)))
}

fn find(path: &Path) -> Option<PathBuf> {
    candidates(path).find(|candidate| is_private(candidate))
}

/// Whether a directory is ours, and nobody else may enter it. A link to one is not.
fn is_private(path: &Path) -> bool {
    fs::symlink_metadata(path).is_ok_and(|found| found.is_dir() && is_ours(&found) && found.mode() & NOT_OWNER == 0)
}

enum Made {
    Private,
    /// The file system keeps neither owners nor permissions, so there is no better place than the
    /// directory itself.
    NotPrivate,
    /// All names are taken.
    Nothing,
}

fn make(path: &Path) -> io::Result<Made> {
    for candidate in candidates(path) {
        match DirBuilder::new().mode(MODE).create(&candidate) {
            Ok(()) if is_private(&candidate) => return Ok(Made::Private),
            Ok(()) => return fs::remove_dir(&candidate).map(|()| Made::NotPrivate),
            // Another of our processes may just have made it.
            Err(error) if error.kind() == ErrorKind::AlreadyExists && is_private(&candidate) => {
                return Ok(Made::Private);
            }
            Err(error) if error.kind() == ErrorKind::AlreadyExists => {}
            Err(error) => return Err(error),
        }
    }
    Ok(Made::Nothing)
}

#[cfg(test)]
mod tests {
    use super::*;
    use resty_session_core::time::Timestamp;
    use std::fs::{File, Permissions};
    use std::os::unix::fs::{PermissionsExt, chown, symlink};

    /// The user that has nothing.
    const NOBODY: u32 = 65534;

    fn directory(mode: u32) -> (tempfile::TempDir, Directory) {
        let temporary = tempfile::tempdir().unwrap();
        fs::set_permissions(temporary.path(), Permissions::from_mode(mode)).unwrap();
        let directory = Directory::new(temporary.path().to_owned());
        (temporary, directory)
    }

    fn make_with(path: &Path, mode: u32) {
        fs::create_dir(path).unwrap();
        fs::set_permissions(path, Permissions::from_mode(mode)).unwrap();
    }

    /// Makes something that another user could have made. Only root can make it another user's: for
    /// others it stays what others may enter.
    fn make_foreign(path: &Path) {
        make_with(path, 0o755);
        if geteuid().is_root() {
            fs::set_permissions(path, Permissions::from_mode(0o700)).unwrap();
            chown(path, Some(NOBODY), None).unwrap();
        }
    }

    #[test]
    fn locks_are_beside_the_records_unless_all_may_write_there() {
        for mode in [0o700, 0o755, 0o770, 0o1775] {
            let (temporary, directory) = directory(mode);
            assert_eq!(path_of_locks(&directory).unwrap(), temporary.path());
            assert_eq!(fs::read_dir(temporary.path()).unwrap().count(), 0);
        }
        for mode in [0o777, 0o1777, 0o702] {
            let (temporary, directory) = directory(mode);
            let path = path_of_locks(&directory).unwrap();
            assert_eq!(path, temporary.path().join(names::private(0)));
            assert_eq!(fs::metadata(&path).unwrap().mode() & 0o7777, 0o700);
            assert_eq!(path_of_locks(&directory).unwrap(), path);
            assert_eq!(directory.of_locks().unwrap().of_locks().unwrap().path(), path);
        }
    }

    #[test]
    fn what_others_have_made_is_passed_over() {
        let (temporary, directory) = directory(0o1777);
        let name = |number| temporary.path().join(names::private(number));
        make_with(&temporary.path().join("ours"), 0o700);
        symlink(temporary.path().join("ours"), name(0)).unwrap();
        File::create(name(1)).unwrap();
        nix::unistd::mkfifo(&name(2), nix::sys::stat::Mode::S_IRWXU).unwrap();
        make_with(&name(3), 0o701);
        make_foreign(&name(4));
        symlink("nowhere", name(5)).unwrap();
        assert_eq!(path_of_locks(&directory).unwrap(), name(6));
        // Our first one counts, even if there is room before it, so that all processes agree.
        fs::remove_file(name(0)).unwrap();
        make_with(&name(8), 0o700);
        assert_eq!(path_of_locks(&directory).unwrap(), name(6));
        fs::remove_dir(name(6)).unwrap();
        assert_eq!(path_of_locks(&directory).unwrap(), name(8));
        fs::remove_dir(name(8)).unwrap();
        assert_eq!(path_of_locks(&directory).unwrap(), name(0));
    }

    #[test]
    fn names_that_are_all_taken_are_an_error_that_says_what_to_do() {
        let (temporary, directory) = directory(0o1777);
        (0..NAMES).for_each(|number| make_foreign(&temporary.path().join(names::private(number))));
        let error = path_of_locks(&directory).unwrap_err().to_string();
        let expected = format!("unable to lock a file in {0} (the names {0}/", temporary.path().display());
        assert!(error.starts_with(&expected) && error.ends_with("have a directory of their own"), "{error}");
        assert!(super::super::lock::try_lock(&directory, "lock").is_err());
    }

    #[test]
    fn a_file_of_another_user_is_refused_where_all_may_write() {
        let (temporary, directory) = directory(0o1777);
        let at = Timestamp::from_secs;
        directory.write("file", b"value", at(1000)).unwrap();
        let acts = || {
            let update = directory.update("file", b"new", at(1000), at(0)).map(drop);
            [directory.read("file", None).map(drop), update, directory.shorten("file", at(999))]
        };
        assert!(acts().iter().all(Result::is_ok));
        let found = |path: &Path| fs::metadata(path).unwrap();
        if geteuid().is_root() {
            chown(directory.join("file"), Some(NOBODY), None).unwrap();
            assert!(acts().iter().all(|result| matches!(result, Err(Error::Foreign { .. }))));
            fs::set_permissions(temporary.path(), Permissions::from_mode(0o775)).unwrap();
            assert!(acts().iter().all(Result::is_ok), "where all that may write are trusted");
            chown(directory.join("file"), Some(NOBODY), None).unwrap();
            fs::set_permissions(temporary.path(), Permissions::from_mode(0o1777)).unwrap();
            chown(temporary.path(), Some(NOBODY), None).unwrap();
            assert!(acts().iter().all(Result::is_ok), "a network share may show one owner for all");
        } else {
            assert!(is_foreign(&found(Path::new("/etc/passwd")), &found(temporary.path())));
            fs::set_permissions(temporary.path(), Permissions::from_mode(0o775)).unwrap();
            assert!(!is_foreign(&found(Path::new("/etc/passwd")), &found(temporary.path())));
        }
    }
}
