//! The storages of a process, by their options.
//!
//! Programs make a storage on every request, or pass its configuration with each call. Here, equal
//! options share one storage. Storages of one server share its connections; see [`Servers`].

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use resty_session_storages::connections::Servers;
use resty_session_storages::journal::Journal;
use resty_session_storages::keyed::Keyed;
use resty_session_storages::{Options, Storage};

/// A storage that nobody has asked for in this time is dropped.
const DROPPED_AFTER: Duration = Duration::from_secs(300);

struct Entry {
    storage: Arc<dyn Storage>,
    last_asked: Instant,
}

/// The storages, and the servers that they are on.
pub struct Registry {
    entries: Mutex<Keyed<Entry>>,
    servers: Servers,
}

impl Registry {
    /// What happens to servers is told to the journal.
    pub fn new(journal: Arc<dyn Journal>) -> Self {
        Self { entries: Mutex::default(), servers: Servers::new(journal) }
    }

    /// Returns the storage of these options, and makes it if it does not exist yet.
    pub fn get<O: Options>(&self, options: &O) -> Arc<dyn Storage> {
        let now = Instant::now();
        let mut entries = self.entries();
        let make = || Entry { storage: options.clone().storage(&self.servers), last_asked: now };
        let entry = entries.get_or_insert_with(options, make);
        entry.last_asked = now;
        entry.storage.clone()
    }

    /// Drops storages that nobody has asked for in a while or holds, and closes connections that
    /// have been unused for too long.
    pub fn close_idle(&self) {
        let now = Instant::now();
        self.entries().retain(|entry| {
            let is_used = Arc::strong_count(&entry.storage) > 1;
            is_used || now.saturating_duration_since(entry.last_asked) < DROPPED_AFTER
        });
        self.servers.close_idle();
    }

    /// The servers that the storages are on.
    pub fn servers(&self) -> &Servers {
        &self.servers
    }

    fn entries(&self) -> MutexGuard<'_, Keyed<Entry>> {
        self.entries.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
