//! The limit of a session's size.

use super::invalid;
use crate::cookie::compression::MAX_INFLATED_SIZE;
use crate::session::{Error, Options};

/// The most bytes of JSON that a session in cookies may hold, unless `max_data_size` says otherwise.
const MAX_COOKIE_DATA_SIZE: usize = 1 << 20;
/// The most bytes of JSON that a session in a storage may hold, unless `max_data_size` says otherwise.
const MAX_STORED_DATA_SIZE: usize = 4 << 20;

/// What limits a session.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Protection {
    max_data_size: Option<usize>,
}

impl Protection {
    /// # Errors
    ///
    /// An option that is wrong.
    pub(super) fn read(options: &Options) -> Result<Self, Error> {
        if options.max_data_size == Some(0) {
            return Err(invalid("max_data_size", "number of bytes over 0 expected"));
        }
        let size = |size| usize::try_from(size).unwrap_or(MAX_INFLATED_SIZE).min(MAX_INFLATED_SIZE);
        Ok(Self { max_data_size: options.max_data_size.map(size) })
    }

    /// The most bytes of JSON that the data may have, and the info.
    pub fn max_data_size(&self, stored: bool) -> usize {
        self.max_data_size.unwrap_or(if stored { MAX_STORED_DATA_SIZE } else { MAX_COOKIE_DATA_SIZE })
    }
}
