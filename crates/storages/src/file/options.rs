//! What a storage in files is configured with.

use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use super::Files;
use crate::cleanup::Cleanup;
use crate::{Naming, Storage};

#[derive(Clone, PartialEq, Eq, Hash)]
pub struct Options {
    /// The directory.
    pub path: PathBuf,
    pub naming: Naming,
    /// Accepted, and not needed: all storages share the threads.
    pub pool: Option<String>,
    /// How long an operation may take.
    pub limit: Duration,
    pub cleanup: Cleanup,
}

impl crate::Options for Options {
    fn limit(&self) -> Duration {
        self.limit
    }

    fn storage(self) -> Arc<dyn Storage> {
        Files::new(self)
    }
}
