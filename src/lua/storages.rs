//! The storages on the bridge for Lua: how they are made from their configurations, and how
//! requests reach them.

use std::cell::RefCell;
use std::rc::Rc;
use std::time::Duration;

use mlua::prelude::*;
use mlua::{BString, Either};

use super::blocks::in_entry_thread;
use super::bridge::bridge;
use super::functions;
use super::running::Running;
use super::storage_handle::{Source, StorageHandle, StorageRef};
use super::values;
use crate::bridge::Ticket;
use resty_session_core::settings::{self, Section};
use resty_session_core::storage::{Delete, Error, Get, Lock, Owner, Request, Sessions, Set, Unlock, Update};
use resty_session_core::time::{Seconds, Timestamp};
use resty_session_storages::Options;
use resty_session_storages::options::{ALIASES, NAMES, NODE_LISTS, NODE_OPTIONS, Visitor, each_storage};
use resty_session_storages::shm::ShmOptions;

/// The storages' makers by name, their operations, and what the shim has to know of their options
/// and errors.
pub fn table(lua: &Lua) -> LuaResult<LuaTable> {
    let (table, options) = (lua.create_table()?, lua.create_table()?);
    each_storage(&mut Makers { lua, table: &table, options: &options })?;
    table.set("NAMES", NAMES)?;
    table.set("OPTIONS", options)?;
    table.set("ALIASES", lua.create_table_from(ALIASES)?)?;
    table.set("NODE_OPTIONS", NODE_OPTIONS)?;
    table.set("NODE_LISTS", NODE_LISTS)?;
    table.set("GONE", Error::Gone.to_string())?;
    table.set("get", lua.create_function(get)?)?;
    table.set("set", lua.create_function(set)?)?;
    table.set("update", lua.create_function(update)?)?;
    table.set("delete", lua.create_function(delete)?)?;
    table.set("read_metadata", lua.create_function(read_metadata)?)?;
    table.set("MAX_HOLDER", MAX_HOLDER)?;
    table.set("lock", lua.create_function(lock)?)?;
    table.set("unlock", lua.create_function(unlock)?)?;
    Ok(table)
}

/// A value, or nil and an error; then warnings about unknown options.
type Made<T> = (Option<T>, Option<String>, Option<Vec<String>>);

fn made<S: Section, T>(lua: &Lua, configuration: &LuaValue, make: impl FnOnce(S) -> T) -> Made<T> {
    match settings::parse(values::section(lua, configuration).as_ref()) {
        Ok((options, mut hints)) => {
            hints.extend(functions::hint(lua));
            (Some(make(options)), None, (!hints.is_empty()).then_some(hints))
        }
        Err(error) => (None, Some(error.to_string()), None),
    }
}

/// Fills the table of makers, and that of the options' names.
struct Makers<'a> {
    lua: &'a Lua,
    table: &'a LuaTable,
    options: &'a LuaTable,
}

impl Makers<'_> {
    fn add<S: Section>(&self, maker: LuaFunction) -> LuaResult<()> {
        self.table.set(S::STORAGE, maker)?;
        self.options.set(S::STORAGE, S::OPTIONS.concat())
    }
}

impl Visitor for Makers<'_> {
    type Error = LuaError;

    fn driver<O: Options>(&mut self) -> LuaResult<()> {
        self.add::<O>(maker::<O>(self.lua)?)
    }

    fn shm(&mut self) -> LuaResult<()> {
        self.add::<ShmOptions>(self.lua.create_function(shm)?)
    }
}

/// `storages.name(configuration, handle)`: a storage, or `nil, err`; third, warnings about
/// unknown options, if there are any. With a handle, that handle gets the storage, and so does
/// everything that uses it.
fn maker<O: Options>(lua: &Lua) -> LuaResult<LuaFunction> {
    lua.create_function(move |lua, (configuration, handle): (LuaValue, Option<StorageRef>)| {
        Ok(made(lua, &configuration, |options: O| {
            let source = Source::new(options);
            match handle {
                None => StorageHandle(Rc::new(RefCell::new(source))),
                Some(handle) => {
                    handle.0.replace(source);
                    handle.clone()
                }
            }
        }))
    })
}

/// `shm(configuration)`: `{ zone = …, prefix = …, suffix = … }`, or `nil, err`; third,
/// warnings about unknown options.
fn shm(lua: &Lua, configuration: LuaValue) -> LuaResult<Made<LuaTable>> {
    let (options, err, hints) = made::<ShmOptions, _>(lua, &configuration, |options| options);
    let Some(options) = options else { return Ok((None, err, hints)) };
    let table = lua.create_table()?;
    table.set("zone", options.zone)?;
    table.set("prefix", options.naming.prefix)?;
    table.set("suffix", options.naming.suffix)?;
    Ok((Some(table), None, hints))
}

/// The ticket of a submitted operation, how many seconds to wait for it at most, and whether this
/// thread may wait by itself; see [`in_entry_thread`].
pub type Submitted = (Ticket, f64, bool);

/// How long a reply may take from the runtime to Lua in a busy worker, before it counts as lost.
pub const DELIVERY: Duration = Duration::from_secs(5);

/// Submits a request, which this process' storage performs. `act` is the act that waits for the
/// reply, if it is one.
///
/// # Errors
///
/// The runtime cannot start. The act is dropped with that.
pub fn submit(lua: &Lua, handle: &StorageHandle, request: Request, act: Option<Running>) -> Result<Submitted, String> {
    let mut source = handle.0.borrow_mut();
    let storage = source.storage().map_err(|error| format!("unable to start the storage runtime: {error}"))?;
    let bridge = bridge(lua).map_err(|error| error.to_string())?;
    let ticket = bridge.submit(source.limit, async move { storage.perform(&request).await }, act);
    Ok((ticket, (source.limit + DELIVERY).as_secs_f64(), in_entry_thread(lua)))
}

/// The parts of [`Submitted`], or nil and an error.
type TicketOrError = (Option<Ticket>, Either<f64, String>, bool);

/// Submits a request on behalf of a program that uses a storage object.
fn ask(lua: &Lua, handle: &StorageHandle, request: impl Into<Request>) -> LuaResult<TicketOrError> {
    Ok(match submit(lua, handle, request.into(), None) {
        Ok((ticket, limit, in_entry)) => (Some(ticket), Either::Left(limit), in_entry),
        Err(error) => (None, Either::Right(error), false),
    })
}

/// A number of seconds since the epoch.
struct Moment(Timestamp);

impl FromLua for Moment {
    fn from_lua(value: LuaValue, lua: &Lua) -> LuaResult<Self> {
        u64::from_lua(value, lua).map(|seconds| Self(Timestamp::from_secs(seconds)))
    }
}

/// A number of seconds.
struct Span(Seconds);

impl Span {
    /// The time that it stands for as a time to live.
    fn ttl(self) -> Seconds {
        self.0.max(Seconds::from_secs(1))
    }
}

impl FromLua for Span {
    fn from_lua(value: LuaValue, lua: &Lua) -> LuaResult<Self> {
        u64::from_lua(value, lua).map(|seconds| Self(Seconds::from_secs(seconds)))
    }
}

/// `get(storage, name, key, current_time)`.
fn get(lua: &Lua, args: (StorageRef, String, String, Moment)) -> LuaResult<TicketOrError> {
    let (storage, name, key, Moment(current_time)) = args;
    ask(lua, &storage, Get { name: name.into(), key, current_time })
}

/// Metadata as Lua has it: `{ audiences = {…}, subjects = {…} }`.
struct Owners(Vec<Owner>);

impl FromLua for Owners {
    fn from_lua(value: LuaValue, _: &Lua) -> LuaResult<Self> {
        let LuaValue::Table(metadata) = value else { return Ok(Self(Vec::new())) };
        let (audiences, subjects): (Vec<String>, Vec<String>) = (metadata.get("audiences")?, metadata.get("subjects")?);
        let both = audiences.into_iter().zip(subjects);
        Ok(Self(both.map(|(audience, subject)| Owner { audience, subject }).collect()))
    }
}

/// The values of a record: `name, key, value, ttl, current_time`, and what else an operation needs.
type RecordArgs<More = ()> = (StorageRef, String, String, (BString, Span, Moment, More));

/// What a stored record replaces, and whose it is: `old_key, stale_ttl, metadata, old_must_exist`.
type ReplacingArgs = (Option<String>, Option<Span>, Owners, bool);

/// `set(storage, name, key, value, ttl, current_time, old_key, stale_ttl, metadata,
/// old_must_exist)`.
fn set(lua: &Lua, args: RecordArgs<ReplacingArgs>) -> LuaResult<TicketOrError> {
    let (storage, name, key, (value, ttl, Moment(current_time), replacing)) = args;
    let (old_key, stale_ttl, Owners(owners), old_must_exist) = replacing;
    let set = Set {
        name: name.into(),
        value: value.into(),
        ttl: ttl.ttl(),
        current_time,
        // A record that replaces itself replaces nothing.
        old_key: old_key.filter(|old_key| !old_key.is_empty() && *old_key != key),
        old_must_exist,
        stale_ttl: stale_ttl.map_or(Seconds::ZERO, |Span(seconds)| seconds),
        owners,
        key,
    };
    ask(lua, &storage, set)
}

/// `update(storage, name, key, value, ttl, current_time)`.
fn update(lua: &Lua, args: RecordArgs) -> LuaResult<TicketOrError> {
    let (storage, name, key, (value, ttl, Moment(current_time), ())) = args;
    ask(lua, &storage, Update { name: name.into(), key, value: value.into(), ttl: ttl.ttl(), current_time })
}

/// `delete(storage, name, key, current_time, metadata)`.
fn delete(lua: &Lua, args: (StorageRef, String, String, (Moment, Owners))) -> LuaResult<TicketOrError> {
    let (storage, name, key, (Moment(current_time), Owners(owners))) = args;
    ask(lua, &storage, Delete { name: name.into(), key, current_time, owners })
}

/// `read_metadata(storage, name, audience, subject, current_time)`.
fn read_metadata(lua: &Lua, args: (StorageRef, String, String, (String, Moment))) -> LuaResult<TicketOrError> {
    let (storage, name, audience, (subject, Moment(current_time))) = args;
    ask(lua, &storage, Sessions { name: name.into(), owner: Owner { audience, subject }, current_time })
}

/// The longest name of a lock's holder, in characters.
const MAX_HOLDER: usize = 255;

/// The name of a lock's holder: visible ASCII characters, which every storage can hold.
struct Holder(String);

impl FromLua for Holder {
    fn from_lua(value: LuaValue, _: &Lua) -> LuaResult<Self> {
        let text = value.as_string().and_then(|text| text.to_str().ok().map(|text| text.to_owned()));
        let is_name =
            |text: &String| (1..=MAX_HOLDER).contains(&text.len()) && text.bytes().all(|b| b.is_ascii_graphic());
        let expected = || format!("1 to {MAX_HOLDER} visible ASCII characters expected");
        text.filter(is_name).map(Self).ok_or_else(|| refused(&value, "holder", expected()))
    }
}

/// A number of seconds, also with a fraction; at least a millisecond.
struct Milliseconds(Duration);

impl FromLua for Milliseconds {
    fn from_lua(value: LuaValue, lua: &Lua) -> LuaResult<Self> {
        const LONGEST: f64 = 1e15;
        let seconds = lua.coerce_number(value.clone())?.filter(|seconds| seconds.is_finite() && *seconds >= 0.0);
        let expected = || "number that is not negative expected".to_owned();
        let seconds = seconds.ok_or_else(|| refused(&value, "ttl", expected()))?;
        Ok(Self(Duration::from_millis((seconds * 1000.0).ceil().clamp(1.0, LONGEST) as u64)))
    }
}

/// The error for an argument that cannot be used.
fn refused(value: &LuaValue, to: &str, expected: String) -> LuaError {
    LuaError::FromLuaConversionError { from: value.type_name(), to: to.to_owned(), message: Some(expected) }
}

/// `lock(storage, name, key, holder, ttl, current_time)`.
fn lock(lua: &Lua, args: (StorageRef, String, String, (Holder, Milliseconds, Moment))) -> LuaResult<TicketOrError> {
    let (storage, name, key, (Holder(holder), Milliseconds(ttl), Moment(current_time))) = args;
    ask(lua, &storage, Lock { name: name.into(), key, holder, ttl, current_time })
}

/// `unlock(storage, name, key, holder)`.
fn unlock(lua: &Lua, args: (StorageRef, String, String, Holder)) -> LuaResult<TicketOrError> {
    let (storage, name, key, Holder(holder)) = args;
    ask(lua, &storage, Unlock { name: name.into(), key, holder })
}
