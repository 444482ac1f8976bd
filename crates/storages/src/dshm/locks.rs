//! Locks for texts that the server cannot change by itself: within a process, one request after
//! another changes a text.

use std::hash::{BuildHasher as _, RandomState};

use tokio::sync::{Mutex, MutexGuard};

/// The number of locks. Different names may share one, so there are more than requests usually hold
/// at the same time.
const LOCKS: usize = 256;

/// Locks for names; each name has one lock, which it may share with others.
pub(super) struct Locks {
    hasher: RandomState,
    locks: Vec<Mutex<()>>,
}

impl Locks {
    pub(super) fn new() -> Self {
        Self { hasher: RandomState::new(), locks: (0..LOCKS).map(|_| Mutex::new(())).collect() }
    }

    /// Waits for a name's lock. Nobody may wait for a lock while holding another, because both
    /// could be the same.
    pub(super) async fn lock(&self, name: &str) -> MutexGuard<'_, ()> {
        let at = self.hasher.hash_one(name) as usize % self.locks.len();
        self.locks[at].lock().await
    }
}
