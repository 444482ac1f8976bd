//! The servers of a process, by what identifies their connections.

use std::any::Any;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use super::{Endpoint, EndpointStatus};
use crate::journal::{Journal, Level, Silent};
use crate::keyed::{Key, Keyed};

/// A server that no storage uses is forgotten after this time.
const FORGOTTEN_AFTER: Duration = Duration::from_secs(60);

/// What connections are shared by: address, TLS, credentials, database and time limits, but not how
/// records are called. It has no `Debug`, because it may hold a password.
pub trait Identity: Key {
    /// The server, with its connections.
    type Server: Server;

    /// Makes the server. Nothing connects yet.
    fn server(&self, journal: Arc<dyn Journal>) -> Arc<Self::Server>;
}

/// A server, or servers that belong together, with the connections to them.
pub trait Server: Any + Send + Sync {
    /// Returns what is known of each server.
    fn endpoints(&self) -> Vec<Arc<Endpoint>>;

    /// Closes connections that were unused for too long.
    fn close_idle(&self);
}

/// The servers that a process is connected to.
pub struct Servers {
    entries: Mutex<Keyed<Entry>>,
    journal: Arc<dyn Journal>,
}

struct Entry {
    server: Arc<dyn Server>,
    last_used: Instant,
}

impl Default for Servers {
    /// Servers that tell nobody anything.
    fn default() -> Self {
        Self::new(Arc::new(Silent))
    }
}

impl Servers {
    /// Changes of the servers' states are told to the journal.
    pub fn new(journal: Arc<dyn Journal>) -> Self {
        Self { entries: Mutex::default(), journal }
    }

    /// The journal of the process.
    pub fn journal(&self) -> &Arc<dyn Journal> {
        &self.journal
    }

    /// Returns the server of an identity, and makes it if it does not exist yet.
    pub fn get<I: Identity>(&self, identity: &I) -> Arc<I::Server> {
        let make = || identity.server(self.journal.clone());
        let server: Arc<dyn Any + Send + Sync> = {
            let mut entries = self.entries();
            let new = || Entry { server: make(), last_used: Instant::now() };
            entries.get_or_insert_with(identity, new).server.clone()
        };
        // Equal identities are of one type, and so are their servers.
        server.downcast().unwrap_or_else(|_| make())
    }

    /// Closes connections that were unused for too long, and forgets servers that no storage has
    /// used for a while.
    pub fn close_idle(&self) {
        let now = Instant::now();
        self.entries().retain(|entry| entry.is_used(now));
        self.all().iter().for_each(|server| server.close_idle());
    }

    /// Returns how each server is doing.
    pub fn endpoints(&self) -> Vec<EndpointStatus> {
        let endpoints = self.all().into_iter().flat_map(|server| server.endpoints());
        endpoints.map(|endpoint| endpoint.status()).collect()
    }

    fn all(&self) -> Vec<Arc<dyn Server>> {
        self.entries().values().map(|entry| entry.server.clone()).collect()
    }

    fn entries(&self) -> MutexGuard<'_, Keyed<Entry>> {
        self.entries.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Entry {
    /// Whether a storage uses the server, or did a while ago.
    fn is_used(&mut self, now: Instant) -> bool {
        if Arc::strong_count(&self.server) > 1 {
            self.last_used = now;
        }
        let is_used = now.saturating_duration_since(self.last_used) < FORGOTTEN_AFTER;
        if !is_used {
            for endpoint in self.server.endpoints() {
                endpoint.tell(Level::Notice, format_args!("closed, because no storage uses it any more"));
            }
        }
        is_used
    }
}
