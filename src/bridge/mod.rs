//! The bridge between an nginx worker and the storage drivers that work beside it.
//!
//! A worker must not wait, but a driver must. So the drivers run in an async [`runtime`] on a
//! thread of their own, one a worker. An [`Exchange`] connects this thread with a worker's Lua; the
//! locks, flags and rings that this takes are in [`mailbox`], [`flagged`] and [`tickets`]:
//!
//! 1. Lua submits an operation, gets a ticket, and waits for the ticket on one of nginx's
//!    semaphores. The worker rings its own doorbell. After nginx has handled the current batch of
//!    events, the operations that were submitted by then are flushed together.
//! 2. On the runtime's thread, those operations are one task with one timer. When an operation is
//!    done, its reply is put on the exchange's queue. If the bell has not been rung since the queue
//!    was last drained, one byte is written to a socket: the [`doorbell`].
//! 3. In the worker, one light thread reads that socket. A byte wakes it. It drains the queue in
//!    one call, and posts the semaphores of the tickets that it finds.
//!
//! The runtime's thread cannot call Lua. What it needs of Lua goes the way of the replies: lines
//! for nginx's log ([`Lines`]), and calls of functions that programs have given as options
//! ([`Exchange::caller`]). The doorbell rings for them, and whoever drains the queue does them.
//!
//! Crossing threads is expensive, so it happens in batches: while the worker is busy, replies
//! gather, and one byte announces them all.
//!
//! What can go wrong, and what happens then:
//!
//! - A request is aborted while it waits: its reply is drained all the same, and dropped.
//! - A server never replies: every operation has a time limit on the runtime; see
//!   [`Exchange::submit`].
//! - A driver panics: its own operation fails, and no other that was flushed with it.
//! - nginx forks: a runtime belongs to the process that started it. Another process starts its own.
//! - A worker exits: requests that it still serves get their replies; see
//!   `lua/resty/session/waiting.lua`.
//! - A Lua VM ends before its replies come (`lua_code_cache off`): the queue is dropped with the
//!   last task that holds it.

pub mod derivations;
pub mod doorbell;
mod exchange;
mod flagged;
mod lines;
mod mailbox;
mod process;
mod processors;
pub mod registry;
pub mod runtime;
mod tickets;

pub use exchange::{Completion, Exchange};
pub use lines::Lines;
pub use tickets::{Ticket, Tickets};

/// What the protocol between the threads is built from; `tests/interleavings/` has loom's.
mod sync {
    pub use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
    pub use std::sync::{Mutex, MutexGuard};
}
