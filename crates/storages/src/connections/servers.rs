//! The servers of a process, by what identifies their connections.

use std::any::{Any, TypeId};
use std::collections::HashMap;
use std::hash::{DefaultHasher, Hash, Hasher as _};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use super::{Endpoint, EndpointStatus};
use crate::journal::{Journal, Level, Silent};

/// A server that no storage uses is forgotten after this time.
const FORGOTTEN_AFTER: Duration = Duration::from_secs(60);

/// What connections are shared by: address, TLS, credentials, database and time limits, but not how
/// records are called. It has no `Debug`, because it may hold a password.
pub trait Identity: Clone + Eq + Hash + Send + 'static {
    /// The server, with its connections.
    type Server: Server;

    /// Makes the server. Nothing connects yet.
    fn server(&self, journal: Arc<dyn Journal>) -> Arc<Self::Server>;
}

/// A server, or servers that belong together, with the connections to them.
pub trait Server: Send + Sync + 'static {
    /// Returns what is known of each server.
    fn endpoints(&self) -> Vec<Arc<Endpoint>>;

    /// Closes connections that were unused for too long.
    fn close_idle(&self);
}

/// The servers that a process is connected to.
pub struct Servers {
    entries: Mutex<HashMap<u64, Vec<Entry>>>,
    journal: Arc<dyn Journal>,
}

struct Entry {
    identity: Box<dyn Any + Send>,
    /// The same server twice: as its own type, and as any server's.
    server: Arc<dyn Any + Send + Sync>,
    connections: Arc<dyn Server>,
    last_used: Instant,
}

/// How many references to a server an [`Entry`] holds.
const OWN_REFERENCES: usize = 2;

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
        let mut entries = self.entries();
        let same_hash = entries.entry(hash_of(identity)).or_default();
        let is_same = |entry: &&Entry| entry.identity.downcast_ref::<I>() == Some(identity);
        if let Some(server) = same_hash.iter().find(is_same).and_then(|entry| entry.server.clone().downcast().ok()) {
            return server;
        }
        let server = identity.server(self.journal.clone());
        same_hash.push(Entry {
            identity: Box::new(identity.clone()),
            server: server.clone(),
            connections: server.clone(),
            last_used: Instant::now(),
        });
        server
    }

    /// Closes connections that were unused for too long, and forgets servers that no storage has
    /// used for a while.
    pub fn close_idle(&self) {
        let mut entries = self.entries();
        let now = Instant::now();
        entries.retain(|_, same_hash| {
            same_hash.retain_mut(|entry| entry.is_used(now));
            !same_hash.is_empty()
        });
        let connections: Vec<_> = entries.values().flatten().map(|entry| entry.connections.clone()).collect();
        drop(entries);
        connections.iter().for_each(|connections| connections.close_idle());
    }

    /// Returns how each server is doing.
    pub fn endpoints(&self) -> Vec<EndpointStatus> {
        let connections: Vec<_> = self.entries().values().flatten().map(|entry| entry.connections.clone()).collect();
        let endpoints = connections.iter().flat_map(|connections| connections.endpoints());
        endpoints.map(|endpoint| endpoint.status()).collect()
    }

    fn entries(&self) -> MutexGuard<'_, HashMap<u64, Vec<Entry>>> {
        self.entries.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Entry {
    /// Whether a storage uses the server, or did a while ago.
    fn is_used(&mut self, now: Instant) -> bool {
        if Arc::strong_count(&self.server) > OWN_REFERENCES {
            self.last_used = now;
        }
        let is_used = now.saturating_duration_since(self.last_used) < FORGOTTEN_AFTER;
        if !is_used {
            for endpoint in self.connections.endpoints() {
                endpoint.tell(Level::Notice, format_args!("closed, because no storage uses it any more"));
            }
        }
        is_used
    }
}

fn hash_of<I: Identity>(identity: &I) -> u64 {
    let mut hasher = DefaultHasher::new();
    TypeId::of::<I>().hash(&mut hasher);
    identity.hash(&mut hasher);
    hasher.finish()
}
