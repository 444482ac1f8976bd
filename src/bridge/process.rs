//! Values of which each process has one.

use std::io;
use std::sync::{Arc, Mutex, PoisonError};

/// A value that each process makes for itself when it first needs it.
///
/// A value that was made before a fork has its threads in the parent only. The child never uses
/// such a value, and never drops it.
pub struct PerProcess<T>(Mutex<Option<(u32, Arc<T>)>>);

impl<T> PerProcess<T> {
    pub const fn new() -> Self {
        Self(Mutex::new(None))
    }

    /// Returns this process' value, and makes it at the first call.
    ///
    /// # Errors
    ///
    /// The error of `make`; the next call tries again.
    pub fn get(&self, make: impl FnOnce() -> io::Result<T>) -> io::Result<Arc<T>> {
        let mut current = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(value) = own(&current) {
            return Ok(value);
        }
        let value = Arc::new(make()?);
        std::mem::forget(current.replace((std::process::id(), value.clone())));
        Ok(value)
    }

    /// Returns this process' value if it was made.
    pub fn made(&self) -> Option<Arc<T>> {
        own(&self.0.lock().unwrap_or_else(PoisonError::into_inner))
    }
}

/// The value, if this process made it.
fn own<T>(current: &Option<(u32, Arc<T>)>) -> Option<Arc<T>> {
    let (made_by, value) = current.as_ref()?;
    (*made_by == std::process::id()).then(|| value.clone())
}
