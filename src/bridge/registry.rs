//! The storages of a process, by their options.
//!
//! Programs make a storage on every request, or pass its configuration with each call. Here, equal
//! options share one storage, and so its connections.

use std::any::Any;
use std::collections::HashMap;
use std::hash::{DefaultHasher, Hash as _, Hasher as _};
use std::sync::{Arc, Mutex, PoisonError};

use resty_session_storages::{Options, Storage};

/// How many storages are kept at most. Beyond that, the one that was asked for longest ago is
/// dropped.
const CAPACITY: usize = 64;

struct Entry {
    options: Box<dyn Any + Send>,
    storage: Arc<dyn Storage>,
    last_asked: u64,
}

#[derive(Default)]
struct Entries {
    by_hash: HashMap<u64, Vec<Entry>>,
    asked: u64,
    size: usize,
}

#[derive(Default)]
pub struct Registry(Mutex<Entries>);

impl Registry {
    /// Returns the storage of these options, and makes it if it does not exist yet.
    pub fn get<O: Options>(&self, options: &O) -> Arc<dyn Storage> {
        let mut entries = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        entries.asked += 1;
        let now = entries.asked;
        let hash = hash_of(options);
        if let Some(entry) = entries.by_hash.entry(hash).or_default().iter_mut().find(|entry| is(entry, options)) {
            entry.last_asked = now;
            return entry.storage.clone();
        }
        if entries.size >= CAPACITY {
            entries.drop_oldest();
        }
        let storage = options.clone().storage();
        let entry = Entry { options: Box::new(options.clone()), storage: storage.clone(), last_asked: now };
        entries.by_hash.entry(hash).or_default().push(entry);
        entries.size += 1;
        storage
    }
}

impl Registry {
    /// Closes the connections of all storages that have been unused for too long.
    pub fn close_idle(&self) {
        let storages: Vec<_> = {
            let entries = self.0.lock().unwrap_or_else(PoisonError::into_inner);
            entries.by_hash.values().flatten().map(|entry| entry.storage.clone()).collect()
        };
        storages.iter().for_each(|storage| storage.close_idle());
    }
}

impl Entries {
    fn drop_oldest(&mut self) {
        let oldest = self.by_hash.values().flatten().map(|entry| entry.last_asked).min();
        for entries in self.by_hash.values_mut() {
            entries.retain(|entry| Some(entry.last_asked) != oldest);
        }
        self.by_hash.retain(|_, entries| !entries.is_empty());
        self.size = self.by_hash.values().map(Vec::len).sum();
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
