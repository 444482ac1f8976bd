//! An act under way, as it waits on the bridge or, as a Lua value, in the shim.

use mlua::prelude::*;

use super::storage_handle::StorageHandle;
use crate::bridge::derivations::Slot;
use resty_session_core::cookie::keys::Derivation;
use resty_session_core::session::effect::Task;
use resty_session_core::session::{Outcome, Session};
use resty_session_core::time::Timestamp;

/// An act's session and its result.
pub type Done = (Session, Outcome);

/// An act under way, and everything that it takes to resume it.
pub struct Running {
    pub task: Task<Done>,
    /// The storage, if it is on the bridge.
    pub storage: Option<StorageHandle>,
    /// Why this thread cannot wait for storages on the bridge, if it cannot.
    pub problem: Option<String>,
    pub awaited: Awaited,
    /// The size of the payload that the act started with, in bytes.
    pub payload_size: usize,
    /// When the act was started.
    pub now: Timestamp,
}

/// What an act waits for.
pub enum Awaited {
    /// A storage's reply of any kind; of a program's own storage, to anything but a `get`.
    Reply,
    /// A record, from a program's own storage.
    Record,
    /// The shim's reply whether this thread can wait for the key.
    Permission(Box<Derivation>),
    /// A key that is being derived, and comes in this slot.
    Key(Slot),
}

impl LuaUserData for Running {}
