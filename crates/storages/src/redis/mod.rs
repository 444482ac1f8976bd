//! Sessions in Redis, alone, behind Sentinel, or in a Cluster.
//!
//! A record is a string with a time to live. An owner's sessions are a sorted set, score = expiry,
//! member = key. Only commands that Redis 5 and Valkey have are used. [`mod@storage`] makes the
//! commands of an operation, and [`server`] or [`cluster`] sends them. Commands of many requests
//! share one connection a worker, or one a node, and are pipelined on it; see [`gathering`] for
//! those of one moment.

use std::sync::Arc;
use std::time::Duration;

use crate::connections::Servers;
use crate::network::Address;
use crate::repeating::Repeating;
use crate::{Naming, Options, Storage};

mod access;
mod cluster;
mod commands;
mod errors;
mod gathering;
mod greeting;
mod options;
mod replicas;
mod scripts;
mod sentinel;
mod server;
#[doc(hidden)]
pub mod slots;
mod storage;

pub use access::Access;
use cluster::ClusterPlace;
pub use options::{ClusterNodes, ReadFrom, RedisOptions, Sentinel, Sentinels, Target};
use replicas::ReplicatedPlace;
pub use scripts::Scripts;
use server::{Location, Place};
use storage::{Commands, RedisStorage};

impl Options for RedisOptions {
    fn limit(&self) -> Duration {
        self.access.timeouts.limit()
    }

    fn storage(self, servers: &Servers) -> Arc<dyn Storage> {
        let Self { target, access, naming, scripts, read_from } = self;
        let replicas = match (read_from, &target) {
            (ReadFrom::Master, _) => None,
            (ReadFrom::Replica(_), Target::Sentinel(named)) => {
                Some(vec![Location::Named(Sentinels { replica: true, ..named.clone() })])
            }
            (ReadFrom::Replica(nodes), _) => {
                Some(nodes.into_iter().map(|node| Location::Configured(Address::Tcp(node))).collect())
            }
        };
        let master = match target {
            Target::Cluster(configured) => {
                let place = ClusterPlace { configured, access, reads_replicas: replicas.is_some() };
                return storage(servers.get(&place), naming, scripts);
            }
            Target::Single(address) => Location::Configured(address),
            Target::Sentinel(sentinels) => Location::Named(sentinels),
        };
        match replicas {
            Some(replicas) => storage(servers.get(&ReplicatedPlace { master, replicas, access }), naming, scripts),
            None => storage(servers.get(&Place { location: master, access }), naming, scripts),
        }
    }
}

fn storage<C: Commands>(servers: Arc<C>, naming: Naming, scripts: Scripts) -> Arc<dyn Storage> {
    Repeating::new(Arc::new(RedisStorage::new(servers, naming, scripts)))
}
