//! A locked value, with a flag that says whether there is something in it.

use std::sync::PoisonError;

use super::sync::{AtomicBool, Mutex, MutexGuard, Ordering};

/// A value that is looked at often, and rarely has something in it: so that a look costs no lock.
///
/// Whoever sets the flag rings the bell of the thread that looks, and that thread takes its replies
/// before it looks: the lock of the replies orders the two, so that the flag itself need not.
#[derive(Default)]
pub struct Flagged<T> {
    value: Mutex<T>,
    flag: AtomicBool,
}

impl<T> Flagged<T> {
    /// Changes the value, and sets the flag if `change` returns true.
    pub fn put(&self, change: impl FnOnce(&mut T) -> bool) {
        let mut value = self.lock();
        if change(&mut value) {
            self.flag.store(true, Ordering::Relaxed);
        }
    }

    /// Whether there may be something.
    pub fn is_set(&self) -> bool {
        self.flag.load(Ordering::Relaxed)
    }

    /// Clears the flag, and returns what `take` takes out of the value.
    pub fn take<R>(&self, take: impl FnOnce(&mut T) -> R) -> R {
        let mut value = self.lock();
        self.flag.store(false, Ordering::Relaxed);
        take(&mut value)
    }

    pub fn lock(&self) -> MutexGuard<'_, T> {
        self.value.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
