//! Settings of connections that a server refuses, as poolers and other dialects do.

use std::sync::{Mutex, PoisonError};

use crate::connections::Endpoint;
use crate::journal::Level;

/// The settings that a server has not taken. Those that it refuses are left out from then on.
#[derive(Default)]
pub struct Refusals(Mutex<Vec<(&'static str, Refusal)>>);

/// What an error for a setting means.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Refusal {
    /// The server does not know the setting, or does not allow it.
    Lasting,
    /// Another connection may have it.
    Passing,
}

impl Refusals {
    /// Whether the server refuses this setting for good.
    pub fn contain(&self, setting: &str) -> bool {
        self.noted().contains(&(setting, Refusal::Lasting))
    }

    /// Notes that the server has not taken a setting, and tells operators the first time.
    pub fn note(&self, endpoint: &Endpoint, setting: &'static str, refusal: Refusal, cause: &str) {
        let mut noted = self.noted();
        if noted.contains(&(setting, refusal)) {
            return;
        }
        noted.push((setting, refusal));
        drop(noted);
        let line = match refusal {
            Refusal::Lasting => format!("it refuses {setting}, which is left out: {cause}"),
            Refusal::Passing => format!("it has not taken {setting}, which a connection lacks: {cause}"),
        };
        endpoint.tell(Level::Warning, format_args!("{line}"));
    }

    fn noted(&self) -> std::sync::MutexGuard<'_, Vec<(&'static str, Refusal)>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
