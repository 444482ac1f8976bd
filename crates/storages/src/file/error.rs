//! What goes wrong with files.

use std::io;
use std::path::PathBuf;

/// The texts name the directory and never a file in it: a file's name holds a session's key, or a subject.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    #[error("unable to {act} in {} ({cause})", directory.display())]
    Io { act: &'static str, directory: PathBuf, cause: io::Error },
    #[error("what stands in {} in place of a session's file is no regular file", directory.display())]
    NoFile { directory: PathBuf },
    #[error("a session's file in {} has {size} bytes (at most {} are allowed)", directory.display(), super::SIZE_LIMIT)]
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
            other => Self::Server(other.to_string()),
        }
    }
}
