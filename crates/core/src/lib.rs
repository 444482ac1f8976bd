//! The core of resty-session: it decides, and knows no Lua, no network and no clock.
//!
//! [`cookie`] holds the formats, [`session`] the rules, and [`storage`] is what both sides of a storage mean by its
//! operations. [`settings`] reads options.
#![forbid(unsafe_code)]

pub mod cookie;
pub mod secret;
pub mod session;
pub mod settings;
pub mod storage;
