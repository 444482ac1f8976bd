//! Settings of connections that a server refuses, as poolers and other dialects do.

use std::sync::{Mutex, PoisonError};

use crate::connections::Endpoint;
use crate::journal::Level;

/// The names of the settings that a server has refused. They are left out from then on.
#[derive(Default)]
pub struct Refusals(Mutex<Vec<&'static str>>);

impl Refusals {
    /// Whether the server has refused this setting.
    pub fn contain(&self, setting: &str) -> bool {
        self.names().contains(&setting)
    }

    /// Notes that the server has refused a setting, and tells operators the first time.
    pub fn note(&self, endpoint: &Endpoint, setting: &'static str, cause: &str) {
        let mut names = self.names();
        if names.contains(&setting) {
            return;
        }
        names.push(setting);
        drop(names);
        endpoint.tell(Level::Warning, format_args!("it refuses {setting}, which is left out: {cause}"));
    }

    fn names(&self) -> std::sync::MutexGuard<'_, Vec<&'static str>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
