//! What tests and benches share: servers and an nginx of their own, on free ports and in temporary
//! directories, and the sessions that lua-resty-session wrote.
#![forbid(unsafe_code)]
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, missing_docs)]

#[cfg(feature = "servers")]
pub mod certificates;
#[cfg(feature = "servers")]
mod data;
#[cfg(feature = "servers")]
pub mod dshm_server;
#[cfg(feature = "servers")]
pub mod hosts;
#[cfg(feature = "servers")]
pub mod memcached_server;
#[cfg(feature = "servers")]
pub mod mysql8_server;
#[cfg(feature = "servers")]
pub mod proxy;
#[cfg(feature = "servers")]
pub mod redis_servers;
#[cfg(feature = "servers")]
pub mod server;
#[cfg(feature = "servers")]
pub mod sql_servers;
#[cfg(feature = "servers")]
pub mod tls_front;
#[cfg(feature = "servers")]
pub mod usage;
pub mod vectors;

use std::time::{SystemTime, UNIX_EPOCH};

use resty_session_core::time::Timestamp;

/// The system's time.
pub fn now() -> Timestamp {
    Timestamp::from_secs(SystemTime::now().duration_since(UNIX_EPOCH).unwrap().as_secs())
}
