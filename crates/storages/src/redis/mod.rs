//! Sessions in Redis, alone, behind Sentinel, or in a Cluster.
//!
//! A record is a string with a time to live. An owner's sessions are a sorted set, score = expiry,
//! member = key. Only commands that Redis 5 and Valkey have are used. Commands of many requests
//! share one connection a worker, or one a node, and are pipelined on it; see [`gathering`] for
//! those of one moment.

use std::sync::Arc;
use std::time::Duration;

use crate::connections::Servers;
use crate::repeating::Repeating;
use crate::{Options, Storage};

mod access;
mod cluster;
mod commands;
mod errors;
mod gathering;
mod node;
mod options;
mod sentinel;
mod single;

pub use access::Access;
pub use cluster::Cluster;
pub use options::{ClusterNodes, RedisOptions, Sentinels, Target};
pub use single::{Location, RedisServer};

impl Options for RedisOptions {
    fn limit(&self) -> Duration {
        match &self.target {
            Target::Single(_) | Target::Sentinel(_) => self.access.timeouts.limit(),
            Target::Cluster(_) => cluster::timeouts(&self.access.timeouts).limit(),
        }
    }

    fn storage(self, _: &Servers) -> Arc<dyn Storage> {
        let server = |location| Repeating::new(Arc::new(RedisServer::new(location, self.access.clone())));
        match self.target {
            Target::Single(address) => server(Location::Configured(address)),
            Target::Sentinel(sentinels) => server(Location::Named(sentinels)),
            Target::Cluster(nodes) => Repeating::new(Arc::new(Cluster::new(nodes, self.access))),
        }
    }
}
