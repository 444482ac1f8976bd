//! An act under way, as it waits on the bridge or, as a Lua value, in the shim.

use std::collections::VecDeque;

use mlua::prelude::*;

use super::storage_handle::StorageHandle;
use crate::bridge::derivations::Slot;
use resty_session_core::cookie::keys::Derivation;
use resty_session_core::session::effect::Task;
use resty_session_core::session::subjects::List;
use resty_session_core::session::{Error, Outcome, Session};
use resty_session_core::storage::{Error as StorageError, Get, Request};
use resty_session_core::time::Timestamp;

/// What an act comes to. [`Running`] turns each into a row in one place.
pub enum Done {
    /// The session that the act was on, and how it went.
    Session(Box<Session>, Outcome),
    /// Whether an act that has no session succeeded.
    Success(Result<(), Error>),
    /// How many sessions ended.
    Count(Result<Option<usize>, Error>),
    /// The sessions of a subject.
    List(Result<List, Error>),
}

/// An act under way, and everything that it takes to resume it.
pub struct Running {
    pub task: Task<Done>,
    /// The storage, if it is on the bridge.
    pub storage: Option<StorageHandle>,
    /// The store of marks, if it is on the bridge and need not be asked for.
    pub store: Option<StorageHandle>,
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
    /// A subject's sessions, from a program's own storage.
    Sessions,
    /// The shim's reply whether this thread can wait for the key.
    Permission(Box<Derivation>),
    /// A key that is being derived, and comes in this slot.
    Key(Slot),
    /// The shim's reply how the store of marks is reached, for this request.
    Store(Box<Request>),
    /// Marks, from a program's own store.
    Marks(Box<Lookups>),
}

/// Marks that are looked up one after the other.
#[derive(Default)]
pub struct Lookups {
    /// Those that are still to be looked up.
    pub gets: VecDeque<Get>,
    /// The results of those that were.
    pub values: Vec<Result<Option<Vec<u8>>, StorageError>>,
}

impl LuaUserData for Running {}
