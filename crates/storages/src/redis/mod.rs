//! Sessions in Redis, alone, behind Sentinel, or in a Cluster.
//!
//! A record is a string with a time to live. An owner's sessions are a sorted set, score = expiry, member = key.
//! Only commands that Redis 5 and Valkey have are used. Commands of many requests share one connection a worker, or one
//! a node, and are pipelined on it; see [`gathering`] for those of one moment.

use std::sync::Arc;
use std::time::Duration;

use crate::Storage;
use crate::repeating::Repeating;

mod cluster;
mod commands;
mod errors;
mod gathering;
mod node;
mod options;
mod sentinel;
mod single;

pub use cluster::Cluster;
pub use options::{Options, Sentinels, Target};
pub use single::Server;

impl crate::Options for Options {
    fn limit(&self) -> Duration {
        match self.target {
            Target::Cluster { .. } => cluster::timeouts(&self.timeouts).limit(),
            _ => self.timeouts.limit(),
        }
    }

    fn storage(self) -> Arc<dyn Storage> {
        match self.target {
            Target::Single(_) | Target::Sentinel(_) => Repeating::new(Arc::new(Server::new(self))),
            Target::Cluster { .. } => Repeating::new(Arc::new(Cluster::new(self))),
        }
    }
}
