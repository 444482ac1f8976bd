//! Errors of the file storage.

use std::io;
use std::path::PathBuf;

use crate::Cause;

/// An error of the file storage. Its text names the directory, but never a file in it, because the
/// names of files contain sessions' keys and subjects.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    #[error("unable to {act} in {} ({cause})", directory.display())]
    Io { act: &'static str, directory: PathBuf, cause: io::Error },
    #[error("a session's file in {} is not a regular file", directory.display())]
    NotAFile { directory: PathBuf },
    #[error(
        "a session's file in {} belongs to another user; sessions should have a directory of their own",
        directory.display()
    )]
    Foreign { directory: PathBuf },
    #[error(
        "unable to lock a file in {0} (the names {0}/{1} and so on are taken by other users); \
         sessions should have a directory of their own",
        directory.display(), super::names::private(0)
    )]
    NoLocks { directory: PathBuf },
    #[error("a session's file in {} has {size} bytes (at most {} are allowed)", directory.display(), super::MAX_FILE_SIZE)]
    TooLarge { directory: PathBuf, size: u64 },
    #[error("invalid {part} for a file's name ({cause})")]
    Name { part: &'static str, cause: &'static str },
    #[error(transparent)]
    Gone(crate::Error),
    #[error("damaged metadata in {} ({cause})", directory.display())]
    Metadata { directory: PathBuf, cause: String },
}

impl From<Error> for crate::Error {
    fn from(error: Error) -> Self {
        match error {
            Error::Gone(gone) => gone,
            Error::Io { .. } => Self::Driver(Cause::new(error.to_string(), error)),
            other => Self::Server(other.to_string()),
        }
    }
}
