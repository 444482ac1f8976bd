//! `init` and `new`: a configuration table in, a handle and its description out.

use std::rc::Rc;

use mlua::prelude::*;

use super::revocation::known_marks;
use super::storage_handle::{StorageHandle, StorageRef};
use super::{ValueOrError, value_or_error, values};
use resty_session_core::cookie::Key;
use resty_session_core::session::configuration::HEADERS;
use resty_session_core::session::name::Name;
use resty_session_core::session::{self, Configuration, Error, Options};

/// A configuration that the shim holds on to.
pub struct Handle {
    pub configuration: Rc<Configuration>,
    /// The storage of sessions, if it is one on the bridge.
    pub storage: Option<StorageHandle>,
    /// The store of marks, if it is one on the bridge and each open asks it.
    pub store: Option<StorageHandle>,
}

impl LuaUserData for Handle {}

/// A handle as Lua gives it back.
pub type HandleRef = LuaUserDataRef<Handle>;

pub fn register(lua: &Lua, module: &LuaTable) -> LuaResult<()> {
    module.set("init", lua.create_function(init)?)?;
    module.set("new", lua.create_function(new)?)?;
    module.set("OPTIONS", Options::names().collect::<Vec<_>>())?;
    module.set("unknown_options", lua.create_function(unknown_options)?)?;
    let headers = lua.create_table()?;
    for (property, header) in HEADERS {
        headers.set(property, header)?;
    }
    module.set("HEADERS", headers)
}

/// `unknown_options(options, sections)`: warnings about unknown options, an array of strings, or
/// nil. `sections` are the names under which storages' options may be given.
fn unknown_options(_: &Lua, (options, sections): (LuaTable, Vec<LuaString>)) -> LuaResult<Option<Vec<String>>> {
    let sections: Vec<String> = sections.iter().map(LuaString::to_string_lossy).collect();
    let sections: Vec<&str> = sections.iter().map(String::as_str).collect();
    // The second level are the fields of tables such as `cookie = { lifetime = … }`.
    let hints = Options::hints(&values::table(&options, 2), &sections);
    Ok((!hints.is_empty()).then_some(hints))
}

/// Where sessions and marks are kept: `stored, storage, number, store`. The first says whether
/// there is a storage; it is given if it is one on the bridge. The number tells the store of marks
/// from others, if there is one; it is given, too, if it is one on the bridge.
type Places = (bool, Option<StorageRef>, Option<u64>, Option<StorageRef>);

/// `init(options, previous, stored, storage, number, store)`: the defaults of all later
/// configurations, or `nil, err`.
fn init(lua: &Lua, args: (Option<LuaTable>, Option<HandleRef>, Places)) -> LuaResult<ValueOrError<LuaTable>> {
    let (options, previous, places) = args;
    let previous = previous.as_ref().map(|previous| &*previous.configuration);
    let configuration = read(options).and_then(|options| session::init(options, previous, getrandom::fill));
    describe(lua, configuration, places)
}

/// `new(options, defaults, stored, storage, number, store)`: the configuration of a session, or
/// `nil, err`.
fn new(lua: &Lua, args: (Option<LuaTable>, HandleRef, Places)) -> LuaResult<ValueOrError<LuaTable>> {
    let (options, defaults, places) = args;
    let configuration = read(options).and_then(|options| session::new(options, &defaults.configuration));
    describe(lua, configuration, places)
}

fn read(options: Option<LuaTable>) -> Result<Options, Error> {
    options.map_or(Ok(Options::default()), |options| Options::read(&values::named(&options, Options::NAMES)))
}

/// An audience's or a subject's name as Lua has it.
pub fn name_of(value: &LuaValue) -> Name<'static> {
    match value {
        LuaValue::String(text) => Name::Text(text.as_bytes().to_vec().into()),
        LuaValue::Integer(number) => Name::Number(*number as f64),
        LuaValue::Number(number) => Name::Number(*number),
        other => Name::Other(other.to_string().unwrap_or_default().into_bytes().into()),
    }
}

fn lua_name(lua: &Lua, name: &Name) -> LuaResult<LuaValue> {
    match name {
        Name::Number(number) => Ok(LuaValue::Number(*number)),
        name => lua.create_string(name.text()).map(LuaValue::String),
    }
}

/// The key material of each key, an array of strings.
fn ikms(lua: &Lua, keys: &[Key]) -> LuaResult<LuaTable> {
    let ikms = lua.create_table()?;
    for key in keys {
        ikms.raw_push(lua.create_string(key.ikm())?)?;
    }
    Ok(ikms)
}

/// What the shim needs to know of a configuration, and the handle to give back with every act. If
/// its acts use a storage on the bridge, or a store of marks each time, there is a second handle,
/// whose acts call methods in Lua.
fn describe(
    lua: &Lua,
    configuration: Result<Configuration, Error>,
    (stored, storage, number, store): Places,
) -> LuaResult<ValueOrError<LuaTable>> {
    let known = known_marks(lua, number);
    let with_places = |configuration: Configuration| configuration.with_storage(stored)?.with_revocation(known);
    let configuration = match configuration.and_then(with_places) {
        Ok(configuration) => configuration,
        Err(error) => return Ok(value_or_error(Err(error))),
    };
    let table = lua.create_table()?;
    table.set("cookie_name", &*configuration.session_cookie.name)?;
    table.set("remember_cookie_name", &*configuration.remember_cookie.name)?;
    table.set("cookie_flags", &*configuration.session_cookie.attributes)?;
    table.set("remember", configuration.remember)?;
    table.set("random_key", configuration.random_key)?;
    table.set("warnings", configuration.warnings())?;
    table.set("guessable", configuration.guessable.key)?;
    table.set("guessable_fallbacks", configuration.guessable.fallbacks)?;
    table.set("audience", lua_name(lua, &configuration.audience)?)?;
    table.set("subject", configuration.subject.as_ref().map(|subject| lua_name(lua, subject)).transpose()?)?;
    table.set("request_headers", configuration.request_headers.clone())?;
    table.set("response_headers", configuration.response_headers.clone())?;
    table.set("ikms", ikms(lua, &configuration.session_cookie.keys)?)?;
    table.set("remember_ikms", ikms(lua, &configuration.remember_cookie.keys)?)?;
    // With a storage, the shim looks at that and not at the store before each act.
    let store = store.filter(|_| !stored && !configuration.remembers_marks());
    let configuration = Rc::new(configuration);
    let [storage, store] = [storage, store].map(|place| place.map(|place| place.clone()));
    if storage.is_some() || store.is_some() {
        let calling = Handle { configuration: configuration.clone(), storage: None, store: None };
        table.set("calling_handle", calling)?;
    }
    table.set("handle", Handle { configuration, storage, store })?;
    Ok(value_or_error(Ok::<_, Error>(table)))
}
