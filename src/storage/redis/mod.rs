//! Sessions in Redis, alone, behind Sentinel, or in a Cluster.
//!
//! A record is a string with a time to live. An owner's sessions are a sorted set, score = expiry, member = key.
//! Only commands that Redis 5 and Valkey have are used. Commands of many requests share one connection a worker, or one
//! a node, and are pipelined on it; see [`gathering`] for those of one moment.

mod cluster;
mod commands;
mod gathering;
mod node;
mod options;
mod sentinel;
mod single;

pub use cluster::Cluster;
pub use options::{Options, Sentinels, Target};
pub use single::Server;

impl From<redis::RedisError> for super::Error {
    fn from(error: redis::RedisError) -> Self {
        if error.is_timeout() { Self::Timeout } else { Self::Server(describe(&error)) }
    }
}

/// What happened, in the server's words where it said anything.
fn describe(error: &redis::RedisError) -> String {
    if error.kind() == redis::ErrorKind::AuthenticationFailed {
        return "the server refuses the username or the password".to_owned();
    }
    match (error.code(), error.detail()) {
        (Some(code), Some(detail)) if detail.starts_with(code) => detail.to_owned(),
        (Some(code), Some(detail)) => format!("{code} {detail}"),
        (Some(code), None) => code.to_owned(),
        (None, _) => error.to_string(),
    }
}

/// The error of an operation after which its connection is given up.
fn lost(error: &redis::RedisError) -> super::Error {
    if error.is_timeout() { super::Error::Timeout } else { super::Error::Lost(describe(error)) }
}

/// Whether a connection is of no more use after an error, whatever it leads to.
fn is_broken(error: &redis::RedisError) -> bool {
    error.is_timeout() || error.is_connection_dropped() || error.is_unrecoverable_error()
}
