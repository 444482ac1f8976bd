//! The bridge for Lua: its doorbell, the tickets of what waits, and the answers that came for them.

use std::cell::{Cell, OnceCell, RefCell};
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use mlua::Either;
use mlua::prelude::*;
use slab::Slab;

use super::acts::Running;
use crate::bridge::runtime::{self, Runtime};
use crate::bridge::{Answer, Completion, Port, doorbell};
use crate::storage::Error;

/// This VM's end of the bridge.
pub struct Bridge {
    port: Port,
    runtime: OnceCell<Arc<Runtime>>,
    /// What was submitted, until its answer is taken or forgotten. Tickets are given out again then.
    tickets: RefCell<Slab<Ticket>>,
    swept: Cell<Instant>,
}

/// How long an answer that was drained may wait to be taken, at least: who waits for it is run at once.
const PATIENCE: Duration = Duration::from_secs(1);

/// What waits for an operation, if it is an act of a session, and what the operation came to, once it has.
#[derive(Default)]
struct Ticket {
    /// The operation's number.
    number: u64,
    act: Option<Running>,
    result: Option<Result<Answer, Error>>,
    /// Whether it had been drained at the last sweep.
    stale: bool,
}

pub fn table(lua: &Lua) -> LuaResult<LuaTable> {
    lua.set_app_data(Bridge::new());
    let table = lua.create_table()?;
    table.set("claim", lua.create_function(|_, ()| Ok(runtime::current().is_ok_and(|runtime| runtime.claim())))?)?;
    table.set("open_doorbell", lua.create_function(|lua, ()| Ok(bridge(lua)?.open_doorbell()))?)?;
    table.set("drain", lua.create_function(|lua, ()| lua.create_sequence_from(bridge(lua)?.drain()))?)?;
    table.set("take", lua.create_function(take)?)?;
    table.set("forget", lua.create_function(forget)?)?;
    table.set("flush", action(lua, Bridge::flush)?)?;
    table.set("discard", action(lua, |bridge| bridge.port.discard())?)?;
    table.set("ring", action(lua, |bridge| bridge.port.ring())?)?;
    table.set("counts", lua.create_function(counts)?)?;
    table.set("in_flight", lua.create_function(|lua, ()| Ok(bridge(lua)?.port.counts().in_flight()))?)?;
    Ok(table)
}

fn action(lua: &Lua, act: fn(&Bridge)) -> LuaResult<LuaFunction> {
    lua.create_function(move |lua, ()| {
        act(&*bridge(lua)?);
        Ok(())
    })
}

pub fn bridge(lua: &Lua) -> LuaResult<mlua::AppDataRef<'_, Bridge>> {
    lua.app_data_ref::<Bridge>().ok_or_else(|| LuaError::runtime("there is no bridge"))
}

/// Host, port and token; or nil and an error.
type Doorbell = (Option<String>, Either<Option<u16>, String>, Option<String>);

impl Bridge {
    fn new() -> Self {
        Self {
            port: Port::default(),
            runtime: OnceCell::new(),
            tickets: RefCell::default(),
            swept: Cell::new(Instant::now()),
        }
    }

    /// Submits an operation; `act` goes on with its answer. Its ticket.
    pub fn submit<F>(&self, limit: Duration, operation: F, act: Option<Running>) -> usize
    where
        F: Future<Output = Result<Answer, Error>> + Send + 'static,
    {
        let mut tickets = self.tickets.borrow_mut();
        let entry = tickets.vacant_entry();
        let ticket = entry.key();
        let number = self.port.submit(ticket, limit, operation);
        entry.insert(Ticket { number, act, ..Ticket::default() });
        ticket
    }

    /// `open_doorbell()`: what to connect with, port and token nil for a Unix socket; or `nil, err`.
    fn open_doorbell(&self) -> Doorbell {
        let opened = runtime::current().and_then(|runtime| doorbell::open(&runtime.handle, &self.port));
        match opened {
            Ok(address) => (Some(address.host), Either::Left(address.port), address.token),
            Err(error) => (None, Either::Right(error.to_string()), None),
        }
    }

    /// `flush()`: runs what was submitted.
    fn flush(&self) {
        // Something was submitted, so there is a runtime; asking for it costs a system call.
        if self.runtime.get().is_none()
            && let Ok(runtime) = runtime::current()
        {
            let _ = self.runtime.set(runtime);
        }
        if let Some(runtime) = self.runtime.get() {
            self.port.flush(&runtime.handle);
        }
    }

    /// `drain()`: the tickets whose answers have come, in an array.
    fn drain(&self) -> Vec<usize> {
        self.sweep();
        let mut tickets = self.tickets.borrow_mut();
        let awaited = self.port.drain().into_iter().filter_map(|Completion { ticket, number, result }| {
            // Nobody waits any more for an answer whose ticket is gone, or given out again.
            let waiting = tickets.get_mut(ticket).filter(|waiting| waiting.number == number)?;
            waiting.result = Some(result);
            Some(ticket)
        });
        awaited.collect()
    }

    /// Forgets answers that were drained and that nobody came for: a request that is aborted after its light thread was
    /// woken, and before it was run, leaves one.
    fn sweep(&self) {
        if self.swept.get().elapsed() < PATIENCE {
            return;
        }
        self.swept.set(Instant::now());
        let mut tickets = self.tickets.borrow_mut();
        tickets.retain(|_, ticket| !std::mem::replace(&mut ticket.stale, ticket.result.is_some()));
    }

    /// The act that waits for a ticket, and what its operation came to.
    pub fn forget(&self, ticket: usize) -> (Option<Running>, Option<Result<Answer, Error>>) {
        let ticket = self.tickets.borrow_mut().try_remove(ticket).unwrap_or_default();
        (ticket.act, ticket.result)
    }
}

/// `forget(ticket)`: nobody waits for it any more.
fn forget(lua: &Lua, ticket: usize) -> LuaResult<()> {
    drop(bridge(lua)?.forget(ticket));
    Ok(())
}

/// `take(ticket)`: what its operation came to, nil where there is nothing; or `nil, err`.
fn take(lua: &Lua, ticket: usize) -> LuaResult<(LuaValue, Option<String>)> {
    let (_, result) = bridge(lua)?.forget(ticket);
    Ok(match result {
        Some(Ok(answer)) => (value(lua, answer)?, None),
        Some(Err(error)) => (LuaValue::Nil, Some(error.to_string())),
        None => (LuaValue::Nil, Some(Error::Broken.to_string())),
    })
}

fn value(lua: &Lua, answer: Answer) -> LuaResult<LuaValue> {
    Ok(match answer {
        Answer::Done => LuaValue::Boolean(true),
        Answer::Absent | Answer::Record(None) => LuaValue::Nil,
        Answer::Record(Some(record)) => LuaValue::String(lua.create_string(record)?),
        Answer::Sessions(sessions) => LuaValue::Table(lua.create_table_from(sessions)?),
    })
}

fn counts(lua: &Lua, (): ()) -> LuaResult<LuaTable> {
    let bridge = bridge(lua)?;
    let counts = bridge.port.counts();
    lua.create_table_from([
        ("submitted", counts.submitted.load(Ordering::Relaxed)),
        ("completed", counts.completed.load(Ordering::Relaxed)),
        ("in_flight", counts.in_flight()),
        ("waiting", bridge.tickets.borrow().len() as u64),
        ("rings", counts.rings.load(Ordering::Relaxed)),
        ("drains", counts.drains.load(Ordering::Relaxed)),
    ])
}

#[cfg(test)]
mod tests {
    use super::*;
    use tokio::sync::oneshot;

    #[test]
    fn an_answer_that_nobody_waits_for_is_not_the_next_one_s() {
        let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build().unwrap();
        let bridge = Bridge::new();
        let submit = || {
            let (answer, receiver) = oneshot::channel::<u8>();
            let operation = async move { Ok(Answer::Record(receiver.await.ok().map(|byte| vec![byte]))) };
            (bridge.submit(Duration::from_secs(9), operation, None), answer)
        };
        let completed = |count| {
            while bridge.port.counts().completed.load(Ordering::Relaxed) < count {
                std::thread::yield_now();
            }
        };
        let (first, first_answer) = submit();
        bridge.port.flush(runtime.handle());
        bridge.forget(first);
        let (second, second_answer) = submit();
        bridge.port.flush(runtime.handle());
        assert_eq!(first, second, "the ticket is given out again");
        first_answer.send(1).unwrap();
        completed(1);
        assert_eq!(bridge.drain(), [0; 0]);
        second_answer.send(2).unwrap();
        completed(2);
        assert_eq!(bridge.drain(), [second]);
        assert_eq!(bridge.forget(second).1.unwrap().unwrap(), Answer::Record(Some(vec![2])));
        assert!(bridge.tickets.borrow().is_empty());
    }
}
