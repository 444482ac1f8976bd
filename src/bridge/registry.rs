//! The storages of a process, by their options.
//!
//! Programs make a storage on every request, or pass its configuration with each call. Here, equal
//! options share one storage. Storages of one server share its connections; see [`Servers`].

use std::any::Any;
use std::collections::HashMap;
use std::hash::{DefaultHasher, Hash as _, Hasher as _};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use resty_session_storages::connections::Servers;
use resty_session_storages::journal::Journal;
use resty_session_storages::{Options, Storage};

/// A storage that nobody has asked for in this time is dropped.
const DROPPED_AFTER: Duration = Duration::from_secs(300);

struct Entry {
    options: Box<dyn Any + Send>,
    storage: Arc<dyn Storage>,
    last_asked: Instant,
}

type Entries = HashMap<u64, Vec<Entry>>;

/// The storages, and the servers that they are on.
pub struct Registry {
    entries: Mutex<Entries>,
    servers: Servers,
}

impl Registry {
    /// What happens to servers is told to the journal.
    pub fn new(journal: Arc<dyn Journal>) -> Self {
        Self { entries: Mutex::default(), servers: Servers::new(journal) }
    }

    /// Returns the storage of these options, and makes it if it does not exist yet.
    pub fn get<O: Options>(&self, options: &O) -> Arc<dyn Storage> {
        let mut entries = self.entries();
        let same_hash = entries.entry(hash_of(options)).or_default();
        if let Some(entry) = same_hash.iter_mut().find(|entry| is(entry, options)) {
            entry.last_asked = Instant::now();
            return entry.storage.clone();
        }
        let storage = options.clone().storage(&self.servers);
        let entry = Entry { options: Box::new(options.clone()), storage: storage.clone(), last_asked: Instant::now() };
        same_hash.push(entry);
        storage
    }

    /// Drops storages that nobody has asked for in a while, and closes connections that have been
    /// unused for too long.
    pub fn close_idle(&self) {
        let now = Instant::now();
        self.entries().retain(|_, same_hash| {
            same_hash.retain(|entry| now.saturating_duration_since(entry.last_asked) < DROPPED_AFTER);
            !same_hash.is_empty()
        });
        self.servers.close_idle();
    }

    /// The servers that the storages are on.
    pub fn servers(&self) -> &Servers {
        &self.servers
    }

    fn entries(&self) -> MutexGuard<'_, Entries> {
        self.entries.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn hash_of<O: Options>(options: &O) -> u64 {
    let mut hasher = DefaultHasher::new();
    std::any::TypeId::of::<O>().hash(&mut hasher);
    options.hash(&mut hasher);
    hasher.finish()
}

fn is<O: Options>(entry: &Entry, options: &O) -> bool {
    entry.options.downcast_ref::<O>() == Some(options)
}
