//! The bridge between an nginx worker and the storage drivers that work while the worker goes on.
//!
//! A worker must not wait; a driver must. So the drivers live on a thread of their own, one a worker, in an async
//! [`runtime`]. Between it and a worker's Lua stands a [`Port`]:
//!
//! 1. Lua submits an operation. It gets a ticket, and waits for it on a semaphore of nginx's. The worker rings its own
//!    doorbell, and when nginx has dealt with that and with all that it found together with it, the operations that were
//!    submitted by then are flushed together.
//! 2. On the runtime's thread those operations are one task, with one timer. When one is done, its answer is put on the
//!    port's queue, and if nobody has rung since the queue was last drained, one byte goes into a socket: the [`doorbell`].
//! 3. In the worker, one light thread reads that socket. A byte wakes it; it drains the queue in one call, and posts
//!    the semaphores of the tickets that it finds.
//!
//! Crossing threads is dear, so it happens in batches: while the worker is busy, answers gather, and one byte
//! announces them all.
//!
//! What can go wrong, and what happens then:
//!
//! - A request is aborted while it waits: its answer is drained all the same, and finds nobody.
//! - A server never answers: every operation has a time limit here, on the runtime; see [`Port::submit`].
//! - A driver panics: its operation fails, not those that were flushed with it.
//! - nginx forks: a runtime belongs to the process that started it; another process starts its own.
//! - A worker exits: requests that it still serves get their answers; see `lua/resty/session/waiting.lua`.
//! - A Lua VM ends before its answers come (`lua_code_cache off`): the queue goes with the last task that has it.

pub mod derivations;
pub mod doorbell;
mod port;
mod process;
mod processors;
pub mod registry;
pub mod runtime;

pub use port::{Answer, Completion, Counts, Port, Ticket};
