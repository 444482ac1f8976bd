//! The acts on the sessions of a subject, and the list that one of them returns.

use std::collections::BTreeMap;

use mlua::prelude::*;

use super::acts::session_of;
use super::configuration::name_of;
use super::revocation::seconds;
use super::rows::{self, Args, InstanceArgs, InstanceRow, Row, failed};
use super::running::{Done, Running};
use resty_session_core::cookie::{Sid, base64url};
use resty_session_core::session::subjects;
use resty_session_core::storage::LiveSession;
use resty_session_core::time::Timestamp;

pub fn register(lua: &Lua, module: &LuaTable) -> LuaResult<()> {
    let table = lua.create_table()?;
    table.set("list", lua.create_function(list)?)?;
    table.set("revoke", lua.create_function(revoke)?)?;
    table.set("revoke_id", lua.create_function(revoke_id)?)?;
    table.set("revoke_others", lua.create_function(revoke_others)?)?;
    table.set("take", lua.create_function(take)?)?;
    table.set("gather", lua.create_function(gather)?)?;
    table.set("add", lua.create_function(add)?)?;
    module.set("subjects", table)
}

/// `list(…, subject)`: the subject is a string or a number.
fn list(lua: &Lua, args: Args<LuaValue>) -> LuaResult<Row> {
    let (handle, request, subject) = rows::read(args);
    let subject = name_of(&subject);
    let list = move |context| async move { Done::List(subjects::list(&context, &subject).await) };
    Running::new(lua, &handle, request, 0, list).start(lua)
}

/// `revoke(…, subject, ttl)`: a mark is kept for that many seconds.
fn revoke(lua: &Lua, args: Args<(LuaValue, f64)>) -> LuaResult<Row> {
    let (handle, request, (subject, ttl)) = rows::read(args);
    let (subject, ttl) = (name_of(&subject), seconds(ttl));
    let revoke = move |context| async move { Done::Success(subjects::revoke_subject(&context, &subject, ttl).await) };
    Running::new(lua, &handle, request, 0, revoke).start(lua)
}

/// The id is base64url, as the list has it or as `get_property("id")` returns it.
fn revoke_id(lua: &Lua, args: Args<LuaString>) -> LuaResult<Row> {
    let (handle, request, id) = rows::read(args);
    let Some(id) = base64url::decode(&id.as_bytes()).ok().and_then(|id| Sid::try_from(id).ok()) else {
        return Ok(failed(&"invalid session id"));
    };
    let revoke = move |context| async move { Done::Success(subjects::revoke_id(&context, &id).await) };
    Running::new(lua, &handle, request, 0, revoke).start(lua)
}

/// An act on an instance, which it leaves as it is.
fn revoke_others(lua: &Lua, args: Args<InstanceArgs>) -> LuaResult<Row> {
    let (handle, request, instance) = rows::read(args);
    let session = match session_of(&handle.configuration, InstanceRow::from(instance)) {
        Ok(session) => session,
        Err(error) => return Ok(failed(&error)),
    };
    let revoke = move |context| async move { Done::Count(session.revoke_others(&context).await) };
    Running::new(lua, &handle, request, 0, revoke).start(lua)
}

/// The sessions that are still to be handed to the shim. It takes them in pieces, because making
/// thousands of tables at once would hold the worker up.
pub struct List(pub subjects::List);

impl LuaUserData for List {}

/// `take(list, into, count, audience)`: appends up to `count` sessions to the array `into`, each
/// `{ id = …, audience = …, expires = …, current = true or nil }`. Returns whether there are more.
fn take(lua: &Lua, args: (LuaUserDataRefMut<List>, LuaTable, usize, LuaValue)) -> LuaResult<bool> {
    let (mut list, into, count, audience) = args;
    for session in list.0.by_ref().take(count) {
        let table = lua.create_table_with_capacity(0, 4)?;
        table.raw_set("id", session.id)?;
        table.raw_set("audience", &audience)?;
        table.raw_set("expires", session.expiry.as_secs())?;
        if session.current {
            table.raw_set("current", true)?;
        }
        into.raw_push(table)?;
    }
    Ok(list.0.len() > 0)
}

/// The sessions of a storage that is written in Lua, on their way to an act. The storage adds them
/// in pieces, because reading thousands at once would hold the worker up. So would moving thousands
/// when a hash table grows.
#[derive(Default)]
pub struct Gathered(BTreeMap<String, u64>);

impl LuaUserData for Gathered {}

impl Gathered {
    /// What a method of a storage returned, if it is gathered sessions. Nothing is left in the
    /// value.
    pub fn from_value(value: &LuaValue) -> Option<Self> {
        let mut gathered = value.as_userdata()?.borrow_mut::<Self>().ok()?;
        Some(std::mem::take(&mut *gathered))
    }

    pub fn into_sessions(self) -> Vec<LiveSession> {
        self.0.into_iter().map(|(key, expiry)| LiveSession { key, expiry: Timestamp::from_secs(expiry) }).collect()
    }

    /// Adds the sessions in a text `key:expiry;…`. Of those with the same key, the one that expires
    /// last counts. Leaves out what is not a session.
    fn add(&mut self, text: &[u8]) {
        for item in text.split(|byte| *byte == b';') {
            let session = std::str::from_utf8(item).ok().and_then(|item| item.rsplit_once(':'));
            if let Some((key, Ok(expiry))) = session.map(|(key, expiry)| (key, expiry.parse())) {
                let latest = self.0.entry(key.to_owned()).or_insert(expiry);
                *latest = expiry.max(*latest);
            }
        }
    }
}

/// `gather()`: no sessions yet.
fn gather(lua: &Lua, (): ()) -> LuaResult<LuaAnyUserData> {
    lua.create_userdata(Gathered::default())
}

/// `add(gathered, text)`: adds the sessions in a text `key:expiry;…`.
fn add(_: &Lua, (mut gathered, text): (LuaUserDataRefMut<Gathered>, LuaString)) -> LuaResult<()> {
    gathered.add(&text.as_bytes());
    Ok(())
}
