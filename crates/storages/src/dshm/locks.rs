//! Who changes a text that the server cannot change by itself waits for others of this process that change the same.

use std::hash::{BuildHasher as _, RandomState};

use tokio::sync::{Mutex, MutexGuard};

/// Names may share a lock: so there are more than are held at a time.
const LOCKS: usize = 256;

/// One lock a name, or a few names.
pub struct Locks {
    hasher: RandomState,
    locks: Vec<Mutex<()>>,
}

impl Locks {
    pub fn new() -> Self {
        Self { hasher: RandomState::new(), locks: (0..LOCKS).map(|_| Mutex::new(())).collect() }
    }

    /// Waits for a name's lock. Who holds one takes no other.
    pub async fn lock(&self, name: &str) -> MutexGuard<'_, ()> {
        let at = self.hasher.hash_one(name) as usize % self.locks.len();
        self.locks[at].lock().await
    }
}
