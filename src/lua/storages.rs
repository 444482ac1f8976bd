//! The storages on the bridge for Lua: made from their configurations, and asked.

use std::cell::RefCell;
use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

use mlua::prelude::*;
use mlua::{BString, Either};

use super::acts::Running;
use super::blocks::in_entry_thread;
use super::bridge::bridge;
use super::values;
use crate::bridge::registry::Registry;
use crate::bridge::runtime;
use crate::bridge::{Answer, Ticket};
use resty_session_core::session::audiences::Metadata;
use resty_session_core::session::effect::{Delete, Effect, Get, Update};
use resty_session_core::settings::{self, Section};
use resty_session_storages::options::{ALIASES, NODE_LISTS, NODE_OPTIONS, Visitor, each_storage};
use resty_session_storages::shm::ShmOptions;
use resty_session_storages::{self as storage, Error, Options, Owner, Record, Storage};

/// The storages' makers by name, their operations, and what the shim has to know of their options and errors.
pub fn table(lua: &Lua) -> LuaResult<LuaTable> {
    let (table, options) = (lua.create_table()?, lua.create_table()?);
    each_storage(&mut Makers { lua, table: &table, options: &options })?;
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
    Ok(table)
}

/// A storage by its options. It can be made before a fork: the process that uses it looks it up in its own registry.
#[derive(Clone)]
pub struct StorageHandle(Rc<RefCell<Source>>);

struct Source {
    limit: Duration,
    look_up: Box<LookUp>,
    found: Option<Arc<dyn Storage>>,
}

type LookUp = dyn Fn(&Registry) -> Arc<dyn Storage>;

impl LuaUserData for StorageHandle {}

pub type StorageRef = LuaUserDataRef<StorageHandle>;

/// A value, or nil and an error; then what to say of unknown options.
type Made<T> = (Option<T>, Option<String>, Option<Vec<String>>);

fn made<S: Section, T>(configuration: &LuaValue, make: impl FnOnce(S) -> T) -> Made<T> {
    match settings::parse(values::value(configuration, values::SECTION).as_ref()) {
        Ok((options, hints)) => (Some(make(options)), None, (!hints.is_empty()).then_some(hints)),
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

/// `storages.name(configuration, handle)`: a storage, or `nil, err`; third, what to say of unknown options, if there are any.
/// With a handle, that one is changed, and so whatever uses it.
fn maker<O: Options>(lua: &Lua) -> LuaResult<LuaFunction> {
    lua.create_function(move |_, (configuration, handle): (LuaValue, Option<StorageRef>)| {
        Ok(made(&configuration, |options: O| {
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

/// `shm(configuration)`: `{ zone = …, prefix = …, suffix = … }`, or `nil, err`; third, what to say of unknown options.
fn shm(lua: &Lua, configuration: LuaValue) -> LuaResult<Made<LuaTable>> {
    let (options, err, hints) = made::<ShmOptions, _>(&configuration, |options| options);
    let Some(options) = options else { return Ok((None, err, hints)) };
    let table = lua.create_table()?;
    table.set("zone", options.zone)?;
    table.set("prefix", options.naming.prefix)?;
    table.set("suffix", options.naming.suffix)?;
    Ok((Some(table), None, hints))
}

impl Source {
    fn new<O: Options>(options: O) -> Self {
        Self { limit: options.limit(), look_up: Box::new(move |registry| registry.get(&options)), found: None }
    }

    /// Looked up once: only processes that do not fork any more, nginx' workers, come here.
    fn storage(&mut self) -> std::io::Result<Arc<dyn Storage>> {
        if let Some(storage) = &self.found {
            return Ok(storage.clone());
        }
        let storage = (self.look_up)(&runtime::current()?.registry);
        self.found = Some(storage.clone());
        Ok(storage)
    }
}

/// What is to be waited for: its ticket, the most seconds that it may take, and whether the thread is one that may wait
/// for it by itself; see [`in_entry_thread`].
pub type Submitted = (Ticket, f64, bool);

/// Time that an answer may take from the runtime to Lua in a worker that is busy, before it counts as lost.
pub const DELIVERY: Duration = Duration::from_secs(5);

impl StorageHandle {
    fn submit<F>(
        &self,
        lua: &Lua,
        act: Option<Running>,
        run: impl FnOnce(Arc<dyn Storage>) -> F,
    ) -> Result<Submitted, String>
    where
        F: Future<Output = Result<Answer, Error>> + Send + 'static,
    {
        let mut source = self.0.borrow_mut();
        let storage = source.storage().map_err(|error| format!("unable to start the storage runtime: {error}"))?;
        let bridge = bridge(lua).map_err(|error| error.to_string())?;
        let ticket = bridge.submit(source.limit, run(storage), act);
        Ok((ticket, (source.limit + DELIVERY).as_secs_f64(), in_entry_thread(lua)))
    }

    /// Submits what an act needs, for the act to go on with the answer.
    ///
    /// # Errors
    ///
    /// There is no runtime. The act is gone with that, too.
    pub fn submit_effect(&self, lua: &Lua, effect: Effect, act: Running) -> Result<Submitted, String> {
        match effect {
            Effect::Get(Get { name, key, current_time }) => {
                let name = String::from(&*name);
                self.submit(lua, Some(act), |storage| async move {
                    storage.get(&name, &key, current_time).await.map(Answer::Record)
                })
            }
            Effect::Set(set) => {
                let record = Record {
                    name: String::from(&*set.name),
                    value: set.value,
                    ttl: set.ttl.max(1),
                    current_time: set.current_time,
                    old_key: replaced(set.old_key, &set.key),
                    old_must_exist: set.old_must_exist,
                    stale_ttl: set.stale_ttl,
                    owners: owners(set.metadata),
                    key: set.key,
                };
                self.submit(lua, Some(act), |storage| async move { storage.set(&record).await.map(|()| Answer::Done) })
            }
            Effect::Update(update) => {
                let Update { name, key, value, ttl, current_time } = *update;
                let update = storage::Update { name: String::from(&*name), key, value, ttl: ttl.max(1), current_time };
                self.submit(lua, Some(act), |storage| async move { storage.update(&update).await.map(updated) })
            }
            Effect::Delete(Delete { name, key, current_time, metadata }) => {
                let (name, owners) = (String::from(&*name), owners(metadata));
                self.submit(lua, Some(act), |storage| async move {
                    storage.delete(&name, &key, current_time, &owners).await.map(|()| Answer::Done)
                })
            }
            Effect::Binding | Effect::Derive(_) => Err(NOT_A_STORAGES.to_owned()),
        }
    }
}

/// The error of an act that asks a storage for something else than an operation.
pub const NOT_A_STORAGES: &str = "no storage can supply that";

fn updated(found: bool) -> Answer {
    if found { Answer::Done } else { Answer::Absent }
}

/// What replaces itself replaces nothing.
fn replaced(old_key: Option<String>, key: &str) -> Option<String> {
    old_key.filter(|old_key| !old_key.is_empty() && old_key != key)
}

fn owners(metadata: Option<Metadata>) -> Vec<Owner> {
    let Some(Metadata { audiences, subjects }) = metadata else { return Vec::new() };
    audiences.into_iter().zip(subjects).map(|(audience, subject)| Owner { audience, subject }).collect()
}

/// The parts of [`Submitted`], or nil and an error.
type Answered = (Option<Ticket>, Either<f64, String>, bool);

fn answered(submitted: Result<Submitted, String>) -> LuaResult<Answered> {
    Ok(match submitted {
        Ok((ticket, limit, in_entry)) => (Some(ticket), Either::Left(limit), in_entry),
        Err(error) => (None, Either::Right(error), false),
    })
}

/// `get(storage, name, key, current_time)`.
fn get(lua: &Lua, (storage, name, key, current_time): (StorageRef, String, String, u64)) -> LuaResult<Answered> {
    answered(
        storage.submit(
            lua,
            None,
            |storage| async move { storage.get(&name, &key, current_time).await.map(Answer::Record) },
        ),
    )
}

/// Metadata as Lua has it: `{ audiences = {…}, subjects = {…} }`.
struct Owners(Vec<Owner>);

impl FromLua for Owners {
    fn from_lua(value: LuaValue, _: &Lua) -> LuaResult<Self> {
        let LuaValue::Table(metadata) = value else { return Ok(Self(Vec::new())) };
        let (audiences, subjects) = (metadata.get("audiences")?, metadata.get("subjects")?);
        Ok(Self(owners(Some(Metadata { audiences, subjects }))))
    }
}

type SetArgs = (StorageRef, String, String, BString, u64, u64, Option<String>, Option<u64>, Owners, bool);

/// `set(storage, name, key, value, ttl, current_time, old_key, stale_ttl, metadata, old_must_exist)`.
fn set(lua: &Lua, args: SetArgs) -> LuaResult<Answered> {
    let (storage, name, key, value, ttl, current_time, old_key, stale_ttl, Owners(owners), old_must_exist) = args;
    let record = Record {
        name,
        value: value.into(),
        ttl: ttl.max(1),
        current_time,
        old_key: replaced(old_key, &key),
        old_must_exist,
        stale_ttl: stale_ttl.unwrap_or_default(),
        owners,
        key,
    };
    answered(storage.submit(lua, None, |storage| async move { storage.set(&record).await.map(|()| Answer::Done) }))
}

/// `update(storage, name, key, value, ttl, current_time)`.
fn update(lua: &Lua, args: (StorageRef, String, String, BString, u64, u64)) -> LuaResult<Answered> {
    let (storage, name, key, value, ttl, current_time) = args;
    let update = storage::Update { name, key, value: value.into(), ttl: ttl.max(1), current_time };
    answered(storage.submit(lua, None, |storage| async move { storage.update(&update).await.map(updated) }))
}

/// `delete(storage, name, key, current_time, metadata)`.
fn delete(lua: &Lua, args: (StorageRef, String, String, u64, Owners)) -> LuaResult<Answered> {
    let (storage, name, key, current_time, Owners(owners)) = args;
    answered(storage.submit(lua, None, |storage| async move {
        storage.delete(&name, &key, current_time, &owners).await.map(|()| Answer::Done)
    }))
}

/// `read_metadata(storage, name, audience, subject, current_time)`.
fn read_metadata(lua: &Lua, args: (StorageRef, String, String, String, u64)) -> LuaResult<Answered> {
    let (storage, name, audience, subject, current_time) = args;
    let owner = Owner { audience, subject };
    answered(storage.submit(lua, None, |storage| async move {
        storage.read_metadata(&name, &owner, current_time).await.map(Answer::Sessions)
    }))
}
