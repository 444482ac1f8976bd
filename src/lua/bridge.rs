//! The bridge for Lua: a port, its doorbell, what comes through it, and the operations that go into it.

use std::cell::{OnceCell, RefCell};
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use mlua::prelude::*;
use mlua::{BString, Either};

use super::{answer, options};
use crate::bridge::registry::Registry;
use crate::bridge::runtime::{self, Runtime};
use crate::bridge::{Answer, Port, doorbell};
use crate::storage::{Error, Options, Owner, Record, Storage};

pub fn table(lua: &Lua) -> LuaResult<LuaTable> {
    let table = lua.create_table()?;
    table.set(
        "new_port",
        lua.create_function(|_, ()| Ok(PortHandle { port: Port::default(), runtime: OnceCell::new() }))?,
    )?;
    table.set("claim", lua.create_function(|_, ()| Ok(runtime::current().is_ok_and(|runtime| runtime.claim())))?)?;
    table.set("open_doorbell", lua.create_function(open_doorbell)?)?;
    table.set("drain", lua.create_function(drain)?)?;
    table.set("flush", lua.create_function(flush)?)?;
    table.set("discard", lua.create_function(discard)?)?;
    table.set("ring", lua.create_function(ring)?)?;
    table.set("counts", lua.create_function(counts)?)?;
    table.set(
        "in_flight",
        lua.create_function(|_, port: LuaUserDataRef<PortHandle>| Ok(port.port.counts().in_flight()))?,
    )?;
    table.set("get", lua.create_function(submit_get)?)?;
    table.set("set", lua.create_function(submit_set)?)?;
    table.set("delete", lua.create_function(submit_delete)?)?;
    table.set("read_metadata", lua.create_function(submit_read_metadata)?)?;
    Ok(table)
}

/// The storages' makers by name.
pub fn storages(lua: &Lua) -> LuaResult<LuaTable> {
    lua.create_table_from([
        ("dshm", maker(lua, options::dshm)?),
        ("file", maker(lua, options::file)?),
        ("memcached", maker(lua, options::memcached)?),
        ("mysql", maker(lua, options::mysql)?),
        ("postgres", maker(lua, options::postgres)?),
        ("redis", maker(lua, options::redis)?),
    ])
}

/// A port, and the runtime that it flushes to.
struct PortHandle {
    port: Port,
    runtime: OnceCell<Arc<Runtime>>,
}

impl LuaUserData for PortHandle {}

type PortRef = LuaUserDataRef<PortHandle>;

/// Host, port and token; or nil and an error.
type Doorbell = (Option<String>, Either<Option<u16>, String>, Option<String>);

/// `open_doorbell(port)`: what to connect with, port and token nil for a Unix socket; or `nil, err`.
fn open_doorbell(_: &Lua, port: PortRef) -> LuaResult<Doorbell> {
    let opened = runtime::current().and_then(|runtime| doorbell::open(&runtime.handle, &port.port));
    Ok(match opened {
        Ok(address) => (Some(address.host), Either::Left(address.port), address.token),
        Err(error) => (None, Either::Right(error.to_string()), None),
    })
}

/// `flush(port)`: runs what was submitted.
fn flush(_: &Lua, port: PortRef) -> LuaResult<()> {
    // Something was submitted, so there is a runtime; asking for it costs a system call.
    if port.runtime.get().is_none()
        && let Ok(runtime) = runtime::current()
    {
        let _ = port.runtime.set(runtime);
    }
    if let Some(runtime) = port.runtime.get() {
        port.port.flush(&runtime.handle);
    }
    Ok(())
}

/// `discard(port)`: drops what was submitted and not flushed.
fn discard(_: &Lua, port: PortRef) -> LuaResult<()> {
    port.port.discard();
    Ok(())
}

/// `ring(port)`: wakes who reads the doorbell.
fn ring(_: &Lua, port: PortRef) -> LuaResult<()> {
    port.port.ring();
    Ok(())
}

/// `drain(port)`: three values a completion in one array: ticket, value or false, error or false.
fn drain(lua: &Lua, port: PortRef) -> LuaResult<LuaTable> {
    let completions = port.port.drain();
    let table = lua.create_table_with_capacity(3 * completions.len(), 0)?;
    for completion in completions {
        table.raw_push(completion.ticket)?;
        match completion.result {
            Ok(answer) => {
                table.raw_push(value(lua, answer)?)?;
                table.raw_push(false)?;
            }
            Err(error) => {
                table.raw_push(false)?;
                table.raw_push(error.to_string())?;
            }
        }
    }
    Ok(table)
}

fn value(lua: &Lua, answer: Answer) -> LuaResult<LuaValue> {
    Ok(match answer {
        Answer::Done => LuaValue::Boolean(true),
        Answer::Record(None) => LuaValue::Boolean(false),
        Answer::Record(Some(record)) => LuaValue::String(lua.create_string(record)?),
        Answer::Sessions(sessions) => LuaValue::Table(lua.create_table_from(sessions)?),
    })
}

fn counts(lua: &Lua, port: PortRef) -> LuaResult<LuaTable> {
    let counts = port.port.counts();
    lua.create_table_from([
        ("submitted", counts.submitted.load(Ordering::Relaxed)),
        ("completed", counts.completed.load(Ordering::Relaxed)),
        ("in_flight", counts.in_flight()),
        ("rings", counts.rings.load(Ordering::Relaxed)),
        ("drains", counts.drains.load(Ordering::Relaxed)),
    ])
}

/// A storage by its options. It can be made before a fork: the process that uses it looks it up in its own registry.
struct StorageHandle {
    limit: Duration,
    look_up: Box<LookUp>,
    found: RefCell<Option<Arc<dyn Storage>>>,
}

type LookUp = dyn Fn(&Registry) -> Arc<dyn Storage>;

impl LuaUserData for StorageHandle {}

type StorageRef = LuaUserDataRef<StorageHandle>;

/// `storages.name(configuration)`: a storage by the options that `read` finds, or `nil, err`.
fn maker<O: Options>(lua: &Lua, read: fn(Option<&LuaTable>) -> Result<O, String>) -> LuaResult<LuaFunction> {
    lua.create_function(move |_, configuration: Option<LuaTable>| {
        Ok(answer(read(configuration.as_ref()).map(StorageHandle::new)))
    })
}

impl StorageHandle {
    fn new<O: Options>(options: O) -> Self {
        let limit = options.limit();
        Self { limit, look_up: Box::new(move |registry| registry.get(&options)), found: RefCell::default() }
    }

    /// Looked up once: only processes that do not fork any more, nginx' workers, come here.
    fn storage(&self) -> std::io::Result<Arc<dyn Storage>> {
        let mut found = self.found.borrow_mut();
        if let Some(storage) = &*found {
            return Ok(storage.clone());
        }
        let storage = (self.look_up)(&runtime::current()?.registry);
        *found = Some(storage.clone());
        Ok(storage)
    }
}

/// The ticket, and the most seconds that its answer may take; or `nil, err`.
type Ticket = (Option<u64>, Either<f64, String>);

/// Time that an answer may take from the runtime to Lua in a worker that is busy, before it counts as lost.
const DELIVERY: Duration = Duration::from_secs(5);

fn submit<F>(port: &PortRef, handle: &StorageRef, run: impl FnOnce(Arc<dyn Storage>) -> F) -> LuaResult<Ticket>
where
    F: Future<Output = Result<Answer, Error>> + Send + 'static,
{
    let storage = match handle.storage() {
        Ok(storage) => storage,
        Err(error) => return Ok((None, Either::Right(format!("unable to start the storage runtime: {error}")))),
    };
    let ticket = port.port.submit(handle.limit, run(storage));
    Ok((Some(ticket), Either::Left((handle.limit + DELIVERY).as_secs_f64())))
}

/// `get(port, storage, name, key, current_time)`.
fn submit_get(_: &Lua, args: (PortRef, StorageRef, String, String, u64)) -> LuaResult<Ticket> {
    let (port, handle, name, key, current_time) = args;
    submit(&port, &handle, |storage| async move { storage.get(name, key, current_time).await.map(Answer::Record) })
}

/// Metadata as the session has it: `{ audiences = {…}, subjects = {…} }`.
struct Owners(Vec<Owner>);

impl FromLua for Owners {
    fn from_lua(value: LuaValue, _: &Lua) -> LuaResult<Self> {
        let LuaValue::Table(metadata) = value else { return Ok(Self(Vec::new())) };
        let audiences: Vec<String> = metadata.get("audiences")?;
        let subjects: Vec<String> = metadata.get("subjects")?;
        let owner = |(audience, subject)| Owner { audience, subject };
        Ok(Self(audiences.into_iter().zip(subjects).map(owner).collect()))
    }
}

type SetArgs = (PortRef, StorageRef, String, String, BString, u64, u64, Option<String>, Option<u64>, Owners);

/// `set(port, storage, name, key, value, ttl, current_time, old_key, stale_ttl, metadata)`.
fn submit_set(_: &Lua, args: SetArgs) -> LuaResult<Ticket> {
    let (port, handle, name, key, value, ttl, current_time, old_key, stale_ttl, Owners(owners)) = args;
    let own_key = key.clone();
    let record = Record {
        name,
        key,
        value: value.into(),
        ttl: ttl.max(1),
        current_time,
        // What replaces itself replaces nothing.
        old_key: old_key.filter(|old_key| !old_key.is_empty() && *old_key != own_key),
        stale_ttl: stale_ttl.unwrap_or_default(),
        owners,
    };
    submit(&port, &handle, |storage| async move { storage.set(record).await.map(|()| Answer::Done) })
}

/// `delete(port, storage, name, key, current_time, metadata)`.
fn submit_delete(_: &Lua, args: (PortRef, StorageRef, String, String, u64, Owners)) -> LuaResult<Ticket> {
    let (port, handle, name, key, current_time, Owners(owners)) = args;
    submit(&port, &handle, |storage| async move {
        storage.delete(name, key, current_time, owners).await.map(|()| Answer::Done)
    })
}

/// `read_metadata(port, storage, name, audience, subject, current_time)`.
fn submit_read_metadata(_: &Lua, args: (PortRef, StorageRef, String, String, String, u64)) -> LuaResult<Ticket> {
    let (port, handle, name, audience, subject, current_time) = args;
    let owner = Owner { audience, subject };
    submit(&port, &handle, |storage| async move {
        storage.read_metadata(name, owner, current_time).await.map(Answer::Sessions)
    })
}
