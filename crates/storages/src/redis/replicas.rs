//! Reading from replicas, which may lag behind their master.

use std::future::Future;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use redis::{Cmd, Value};

use super::access::Access;
use super::scripts::Scripts;
use super::server::{Location, Place, RedisServer};
use super::storage::Commands;
use crate::Error;
use crate::connections::{Endpoint, Identity, Server};
use crate::journal::Journal;
use crate::recent::RecentWrites;

/// Runs a command on one of the replicas, which take turns. One that fails is passed over; one that
/// is too slow has used up the time.
pub(super) async fn read_any<R>(
    replicas: &[R],
    turn: usize,
    server: impl Fn(&R) -> Arc<RedisServer>,
    command: &Cmd,
) -> Option<Value> {
    for at in 0..replicas.len() {
        match server(&replicas[turn.wrapping_add(at) % replicas.len()]).one(command.clone()).await {
            Ok(value) => return Some(value),
            Err(Error::Timeout | Error::ConnectTimeout) => return None,
            Err(_) => {}
        }
    }
    None
}

/// A server and those that its records are read from.
#[derive(Clone, PartialEq, Eq, Hash)]
pub(super) struct ReplicatedPlace {
    pub master: Location,
    pub replicas: Vec<Location>,
    pub access: Access,
}

/// A master and its replicas.
pub(super) struct Replicated {
    master: Arc<RedisServer>,
    replicas: Vec<Arc<RedisServer>>,
    turn: AtomicUsize,
    changes: RecentWrites,
}

impl Identity for ReplicatedPlace {
    type Server = Replicated;

    fn server(&self, journal: Arc<dyn Journal>) -> Arc<Replicated> {
        let server = |location: &Location| {
            let place = Place { location: location.clone(), access: self.access.clone() };
            Arc::new(RedisServer::new(place, journal.clone()))
        };
        Arc::new(Replicated {
            master: server(&self.master),
            replicas: self.replicas.iter().map(server).collect(),
            turn: AtomicUsize::new(0),
            changes: RecentWrites::default(),
        })
    }
}

impl Commands for Replicated {
    fn one(&self, command: Cmd) -> impl Future<Output = Result<Value, Error>> + Send {
        self.master.one(command)
    }

    fn all(&self, commands: Vec<Cmd>) -> impl Future<Output = Result<Vec<Value>, Error>> + Send {
        self.master.all(commands)
    }

    fn values(&self, keys: Vec<String>) -> impl Future<Output = Vec<Result<Value, Error>>> + Send {
        self.master.values(keys)
    }

    async fn read(&self, command: Cmd) -> Option<Value> {
        let turn = self.turn.fetch_add(1, Ordering::Relaxed);
        read_any(&self.replicas, turn, Arc::clone, &command).await
    }

    fn changes(&self) -> Option<&RecentWrites> {
        Some(&self.changes)
    }

    fn scripts(&self) -> Scripts {
        self.master.scripts()
    }

    fn learn(&self, scripts: Scripts) {
        self.master.learn(scripts);
    }
}

impl Server for Replicated {
    fn endpoints(&self) -> Vec<Arc<Endpoint>> {
        self.replicas.iter().chain([&self.master]).flat_map(|server| server.endpoints()).collect()
    }

    fn close_idle(&self) {
        self.replicas.iter().chain([&self.master]).for_each(|server| server.close_idle());
    }
}
