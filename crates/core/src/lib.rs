//! The core of resty-session: it decides, and does not know of Lua, the network or the clock.
//!
//! [`cookie`] holds the formats, [`session`] the rules, and [`storage`] the operations on records
//! that sessions and storages agree on. [`settings`] reads options. [`time`] and [`secret`] are the
//! types of times and secrets.
#![forbid(unsafe_code)]
#![warn(missing_docs, unreachable_pub)]

pub mod cookie;
pub mod secret;
pub mod session;
pub mod settings;
pub mod storage;
pub mod time;
#[cfg(feature = "torture_bugs")]
pub mod torture_bugs;
