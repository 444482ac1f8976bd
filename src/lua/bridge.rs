//! The bridge for Lua: its doorbell, its tickets, and the replies that have come for them.

use std::cell::OnceCell;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use mlua::Either;
use mlua::prelude::*;

use super::blocks::{Blocks, in_entry_thread};
use super::functions::{self, SlotRef};
use super::running::Running;
use super::{status, values};
use crate::bridge::runtime::{self, Runtime};
use crate::bridge::{Completion, Exchange, Ticket, Tickets, doorbell};
use resty_session_core::storage::{Error, Reply};
use resty_session_storages::credentials::{Caller, Returned};
use resty_session_storages::journal::Level;

/// This VM's end of the bridge.
#[derive(Default)]
pub struct Bridge {
    exchange: Exchange,
    runtime: OnceCell<Arc<Runtime>>,
    tickets: Tickets<Running, Result<Reply, Error>>,
}

pub fn table(lua: &Lua) -> LuaResult<LuaTable> {
    lua.set_app_data(Bridge::default());
    lua.set_app_data(Blocks::default());
    let table = lua.create_table()?;
    table.set("open_doorbell", lua.create_function(|lua, ()| Ok(bridge(lua)?.open_doorbell()))?)?;
    table.set("drain", lua.create_function(drain)?)?;
    table.set("take_lines", lua.create_function(take_lines)?)?;
    table.set("take_calls", lua.create_function(take_calls)?)?;
    table.set("supply", lua.create_function(supply)?)?;
    table.set("take", lua.create_function(take)?)?;
    table.set("discard", lua.create_function(discard)?)?;
    table.set("flush", action(lua, Bridge::flush)?)?;
    table.set("sweep", lua.create_function(|lua, passed: bool| Ok(bridge(lua)?.tickets.sweep(passed)))?)?;
    table.set("in_entry_thread", lua.create_function(|lua, ()| Ok(in_entry_thread(lua)))?)?;
    table.set("ring", action(lua, |bridge| bridge.exchange.ring())?)?;
    table.set("counts", lua.create_function(counts)?)?;
    table.set("endpoints", lua.create_function(status::endpoints)?)?;
    table.set("in_flight", lua.create_function(|lua, ()| Ok(bridge(lua)?.exchange.counts().in_flight()))?)?;
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
    /// Submits an operation, and returns its ticket. `act` is the act that waits for the reply, if
    /// it is one.
    pub fn submit<F>(&self, limit: Duration, operation: F, act: Option<Running>) -> Ticket
    where
        F: Future<Output = Result<Reply, Error>> + Send + 'static,
    {
        let ticket = self.exchange.submit(limit, operation);
        self.tickets.expect(ticket, act);
        ticket
    }

    /// What has functions of this VM called.
    pub fn caller(&self) -> impl Caller + use<> {
        self.exchange.caller()
    }

    /// `open_doorbell()`: where to connect, port and token nil for a Unix socket; or `nil, err`.
    fn open_doorbell(&self) -> Doorbell {
        let opened = self.runtime().and_then(|runtime| {
            runtime.lines.add_reader(&self.exchange);
            doorbell::open(&runtime.handle, &self.exchange)
        });
        match opened {
            Ok(address) => (Some(address.host), Either::Left(address.port), address.token),
            Err(error) => (None, Either::Right(error.to_string()), None),
        }
    }

    /// `flush()`: starts the submitted operations.
    fn flush(&self) {
        // Something was submitted, so there is a runtime.
        if let Ok(runtime) = self.runtime() {
            self.exchange.flush(&runtime.handle);
        }
    }

    /// This process' runtime. It is looked up once, because that costs a system call, and because
    /// only processes that do not fork any more, nginx' workers, use it.
    fn runtime(&self) -> std::io::Result<&Runtime> {
        if let Some(runtime) = self.runtime.get() {
            return Ok(runtime);
        }
        let runtime = runtime::current()?;
        Ok(self.runtime.get_or_init(|| runtime))
    }

    /// Whether the runtime's thread needs something else of Lua than that replies are taken.
    fn has_errands(&self) -> bool {
        self.exchange.has_calls() || self.runtime.get().is_some_and(|runtime| runtime.lines.are_there())
    }

    /// Takes the replies that have come, and returns the tickets that wait for them.
    fn drain(&self) -> Vec<Ticket> {
        let completions = self.exchange.drain().into_iter();
        self.tickets.arrive(completions.map(|Completion { ticket, result }| (ticket, result)))
    }

    /// Takes the act that waits for a ticket, and the result of its operation, if it has come.
    pub fn take(&self, ticket: Ticket) -> (Option<Running>, Option<Result<Reply, Error>>) {
        self.tickets.take(ticket)
    }
}

/// `drain()`: the tickets whose replies have come, in an array; and whether there are lines or
/// calls to be taken.
fn drain(lua: &Lua, (): ()) -> LuaResult<(LuaTable, bool)> {
    let bridge = bridge(lua)?;
    Ok((lua.create_sequence_from(bridge.drain())?, bridge.has_errands()))
}

/// `take_lines()`: the lines for nginx's log, an array in which each line's text comes after its
/// level, or nil.
fn take_lines(lua: &Lua, (): ()) -> LuaResult<Option<LuaTable>> {
    let bridge = bridge(lua)?;
    let Some(runtime) = bridge.runtime.get().filter(|runtime| runtime.lines.are_there()) else { return Ok(None) };
    let table = lua.create_table()?;
    for (level, line) in runtime.lines.take() {
        table.raw_push(match level {
            Level::Notice => "NOTICE",
            Level::Warning => "WARN",
            Level::Error => "ERR",
        })?;
        table.raw_push(line)?;
    }
    Ok(Some(table))
}

/// `take_calls()`: the functions that are to be called, an array in which each is followed by its
/// slot, or nil.
fn take_calls(lua: &Lua, (): ()) -> LuaResult<Option<LuaTable>> {
    let exchange = bridge(lua)?.exchange.clone();
    if !exchange.has_calls() {
        return Ok(None);
    }
    let table = lua.create_table()?;
    for slot in exchange.take_calls() {
        match functions::of_slot(lua, &slot)? {
            Some((function, slot)) => {
                table.raw_push(function)?;
                table.raw_push(slot)?;
            }
            None => slot.supply(Err("the function does not exist any more".to_owned())),
        }
    }
    Ok(Some(table))
}

/// `supply(slot, problem, first, second)`: what a function returned first and second, or why it
/// failed.
fn supply(_: &Lua, args: (SlotRef, Option<LuaString>, LuaValue, LuaValue)) -> LuaResult<()> {
    let (slot, problem, first, second) = args;
    let returned = || Returned(values::value(&first, 0), values::value(&second, 0));
    slot.0.supply(problem.map_or_else(|| Ok(returned()), |problem| Err(problem.to_string_lossy())));
    Ok(())
}

/// `discard(ticket)`: drops its reply, now or when it comes, because nobody waits for it any more.
fn discard(lua: &Lua, ticket: Ticket) -> LuaResult<()> {
    drop(bridge(lua)?.take(ticket));
    Ok(())
}

/// `take(ticket)`: the value that its operation returned, nil for what is absent; or `nil, err`.
fn take(lua: &Lua, ticket: Ticket) -> LuaResult<(LuaValue, Option<String>)> {
    let (_, result) = bridge(lua)?.take(ticket);
    Ok(match result {
        Some(Ok(reply)) => (value(lua, reply)?, None),
        Some(Err(error)) => (LuaValue::Nil, Some(error.to_string())),
        None => (LuaValue::Nil, Some(Error::Broken.to_string())),
    })
}

/// A reply as a storage's method in Lua returns it.
fn value(lua: &Lua, reply: Reply) -> LuaResult<LuaValue> {
    Ok(match reply {
        Reply::Done => LuaValue::Boolean(true),
        Reply::Absent => LuaValue::Nil,
        Reply::Record(record) => LuaValue::String(lua.create_string(record)?),
        Reply::Sessions(sessions) => {
            let expiries = sessions.into_iter().map(|session| (session.key, session.expiry.as_secs()));
            LuaValue::Table(lua.create_table_from(expiries)?)
        }
        // Acts alone ask for several records, and take the reply themselves.
        Reply::Records(_) => LuaValue::Nil,
    })
}

fn counts(lua: &Lua, (): ()) -> LuaResult<LuaTable> {
    let bridge = bridge(lua)?;
    let counts = bridge.exchange.counts();
    lua.create_table_from([
        ("submitted", counts.submitted.load(Ordering::Relaxed)),
        ("completed", counts.completed.load(Ordering::Relaxed)),
        ("in_flight", counts.in_flight()),
        ("waiting", bridge.tickets.count() as u64),
        ("rings", counts.rings.load(Ordering::Relaxed)),
        ("drains", counts.drains.load(Ordering::Relaxed)),
    ])
}

#[cfg(test)]
mod tests {
    use super::*;
    use tokio::sync::oneshot;

    fn operation() -> (oneshot::Sender<u8>, impl Future<Output = Result<Reply, Error>> + Send + 'static) {
        let (reply, receiver) = oneshot::channel::<u8>();
        (reply, async move { Ok(receiver.await.map_or(Reply::Absent, |byte| Reply::Record(vec![byte]))) })
    }

    #[test]
    fn no_ticket_is_ever_given_out_again_and_only_its_own_reply_comes_for_it() {
        const LIMIT: Duration = Duration::from_secs(9);
        let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build().unwrap();
        let bridge = Bridge::default();
        let completed = |count| {
            while bridge.exchange.counts().completed.load(Ordering::Relaxed) < count {
                std::thread::yield_now();
            }
        };
        let [(first_reply, first), (second_reply, second)] = [operation(), operation()];
        let first = bridge.submit(LIMIT, first, None);
        bridge.exchange.flush(runtime.handle());
        bridge.take(first);
        let second = bridge.submit(LIMIT, second, None);
        bridge.exchange.flush(runtime.handle());
        assert_ne!(first, second);
        first_reply.send(1).unwrap();
        completed(1);
        assert_eq!(bridge.drain(), [0; 0]);
        second_reply.send(2).unwrap();
        completed(2);
        assert_eq!(bridge.drain(), [second]);
        assert_eq!(bridge.take(second).1.unwrap().unwrap(), Reply::Record(vec![2]));
        assert_eq!(bridge.tickets.count(), 0);
    }

    #[test]
    fn a_reply_that_two_sweeps_find_not_taken_is_dropped_and_no_other() {
        let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build().unwrap();
        let bridge = Bridge::default();
        let [(first_reply, first), (second_reply, second), (_reply, third)] = [operation(), operation(), operation()];
        let [first, second, third] =
            [first, second, third].map(|operation| bridge.submit(Duration::from_secs(9), operation, None));
        bridge.exchange.flush(runtime.handle());
        let drain = |reply: oneshot::Sender<u8>| {
            reply.send(1).unwrap();
            while bridge.drain().is_empty() {
                std::thread::yield_now();
            }
        };
        drain(first_reply);
        assert!(bridge.tickets.sweep(false), "there is one that was not taken");
        assert!(bridge.tickets.sweep(true), "it is found, and nobody has had a turn since");
        drain(second_reply);
        assert!(bridge.tickets.sweep(false), "still in the same turn");
        assert!(bridge.tickets.sweep(true), "the second has not had its chance");
        assert!(bridge.take(first).1.is_none());
        assert!(bridge.take(second).1.is_some());
        assert!(!bridge.tickets.sweep(true));
        assert!(!bridge.tickets.sweep(false));
        assert_eq!(bridge.tickets.count(), 1);
        assert!(bridge.take(third).1.is_none(), "it has not arrived");
        assert_eq!(bridge.tickets.count(), 0);
    }
}
