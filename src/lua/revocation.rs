//! How an act reaches the store of marks, which need not be the storage of sessions; and the
//! function that revokes the sessions of an identity provider's session id.
//!
//! Most opens find what they need among the marks that the worker knows. An act that does not find
//! it asks the shim, with [`Next::Ask`], how the store is reached here and now, and the shim calls
//! `ask`. If the worker may remember no marks, the shim finds that out before each act.

use mlua::Either;
use mlua::prelude::*;

use super::acts::{OVER, request_table, returned};
use super::rows::{self, Args, Next, Row, failed, number, text};
use super::running::{Awaited, Done, Lookups, Running};
use super::storage_handle::StorageRef;
use resty_session_core::session::effect::Supply;
use resty_session_core::session::{KnownMarks, Revoked, revoke};
use resty_session_core::storage::{Error as StorageError, Get, Reply, Request};
use resty_session_core::time::Seconds;

pub fn register(lua: &Lua, module: &LuaTable) -> LuaResult<()> {
    lua.set_app_data(KnownMarks::default());
    module.set("ask", lua.create_function(ask)?)?;
    module.set("revoke_sid", lua.create_function(revoke_sid)?)
}

/// What this VM knows of the marks in a store.
pub fn known_marks(lua: &Lua, store: Option<u64>) -> Option<KnownMarks> {
    let known = lua.app_data_ref::<KnownMarks>()?;
    store.map(|store| known.of_store(store))
}

/// Seconds from Lua, at least one.
pub fn seconds(value: f64) -> Seconds {
    Seconds::from_secs(value.ceil().max(1.0) as u64)
}

/// `revoke_sid(…, sid, ttl)`: the mark is kept for that many seconds.
fn revoke_sid(lua: &Lua, args: Args<(LuaString, f64)>) -> LuaResult<Row> {
    let (handle, request, (sid, ttl)) = rows::read(args);
    let (revoked, ttl) = (Revoked::Sid(sid.as_bytes().to_vec()), seconds(ttl));
    let mark = move |context| async move { Done::Success(revoke(&context, revoked, ttl).await) };
    Running::new(lua, &handle, request, 0, mark).start(lua)
}

impl Running {
    /// Asks the shim how the store of marks is reached. The shim replies by calling [`ask()`].
    pub fn ask_for_store(mut self, lua: &Lua, request: Request) -> LuaResult<Row> {
        self.awaited = Awaited::Store(Box::new(request));
        let task = Either::Right(LuaValue::UserData(lua.create_userdata(self)?));
        Ok(Next::Ask.row([task]))
    }

    /// Has the shim call a method of the program's own store.
    fn call_store(mut self, lua: &Lua, request: Request) -> LuaResult<Row> {
        match request {
            Request::Get(get) => self.look_up_next(lua, Lookups { gets: [get].into(), values: Vec::new() }),
            Request::GetEach(gets) => self.look_up_next(lua, Lookups { gets: gets.into(), values: Vec::new() }),
            other => {
                self.awaited = Awaited::Reply;
                let task = Either::Right(LuaValue::UserData(lua.create_userdata(self)?));
                Ok(Next::SetMark.row([task, Either::Right(LuaValue::Table(request_table(lua, other)?))]))
            }
        }
    }

    /// Has the shim look up the next of several marks, or resumes the act once all are there.
    fn look_up_next(mut self, lua: &Lua, mut lookups: Lookups) -> LuaResult<Row> {
        let Some(Get { name, key, current_time }) = lookups.gets.pop_front() else {
            let result = match lookups.values.pop() {
                Some(result) if lookups.values.is_empty() => {
                    result.map(|value| value.map_or(Reply::Absent, Reply::Record))
                }
                last => {
                    lookups.values.extend(last);
                    Ok(Reply::Records(lookups.values))
                }
            };
            return self.resume(lua, Supply::Storage(result));
        };
        self.awaited = Awaited::Marks(Box::new(lookups));
        let task = Either::Right(LuaValue::UserData(lua.create_userdata(self)?));
        Ok(Next::GetMark.row([task, text(&*name), text(key), number(current_time.as_secs())]))
    }

    /// Goes on with what the program's own store returned for a mark.
    pub fn take_mark(self, lua: &Lua, mut lookups: Lookups, value: &LuaValue, error: &LuaValue) -> LuaResult<Row> {
        let number = match value {
            LuaValue::Integer(_) | LuaValue::Number(_) => value.to_string().ok().map(String::into_bytes),
            _ => None,
        };
        let found = match number {
            Some(number) => Ok(Reply::Record(number)),
            None => returned(&Awaited::Record, value, error),
        };
        let found = match found {
            Ok(Reply::Record(value)) => Ok(Some(value)),
            Ok(_) => Ok(None),
            Err(error) => Err(error),
        };
        if let Err(error) = &found {
            // Each look-up may take as long as this one did.
            lookups.values.extend(lookups.gets.drain(..).map(|_| Err(error.clone())));
        }
        lookups.values.push(found);
        self.look_up_next(lua, lookups)
    }
}

/// `ask(task, store, problem)`: goes on with an act that needs the store of marks: `store` is its
/// native storage, or nil if its methods are to be called. `problem` is why this thread cannot wait
/// for a native storage, if it cannot.
fn ask(lua: &Lua, args: (LuaAnyUserData, Option<StorageRef>, Option<String>)) -> LuaResult<Row> {
    let (task, store, problem) = args;
    let mut running: Running = task.take()?;
    let Awaited::Store(request) = std::mem::replace(&mut running.awaited, Awaited::Reply) else {
        return Ok(failed(&OVER));
    };
    match (store, problem) {
        (None, _) => running.call_store(lua, *request),
        (Some(_), Some(problem)) => running.resume(lua, Supply::Storage(Err(StorageError::Wait(problem)))),
        (Some(store), None) => running.submit(lua, &store, *request),
    }
}
