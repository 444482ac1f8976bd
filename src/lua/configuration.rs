//! `init` and `new`: a configuration table in, a handle and its description out.

use std::rc::Rc;

use mlua::prelude::*;

use super::array::{self, NAMED_FIELDS};
use super::hints::hint;
use super::storages::{StorageHandle, StorageRef};
use super::{Answer, answer};
use resty_session_core::cookie::Key;
use resty_session_core::session::configuration::{HEADERS, Value, WITH_REVOCATION};
use resty_session_core::session::name::Name;
use resty_session_core::session::{self, Configuration, Error, Options};

/// A configuration that the shim holds on to, and its storage, if that is one on the bridge.
pub struct Handle {
    pub configuration: Rc<Configuration>,
    pub storage: Option<StorageHandle>,
}

impl LuaUserData for Handle {}

/// A handle as Lua gives it back.
pub type HandleRef = LuaUserDataRef<Handle>;

pub fn register(lua: &Lua, module: &LuaTable) -> LuaResult<()> {
    module.set("init", lua.create_function(init)?)?;
    module.set("new", lua.create_function(new)?)?;
    module.set("OPTIONS", names().collect::<Vec<_>>())?;
    module.set("unknown_options", lua.create_function(unknown_options)?)?;
    let headers = lua.create_table()?;
    for (property, header) in HEADERS {
        headers.set(property, header)?;
    }
    module.set("HEADERS", headers)
}

/// The names of all options that are not a storage's own.
fn names() -> impl Iterator<Item = &'static str> {
    Options::NAMES.iter().copied().chain(WITH_REVOCATION).chain(["storage"])
}

/// `unknown_options(options, sections)`: what to say of unknown options, an array of strings, or nil.
/// `sections` are the names under which storages' options may stand.
fn unknown_options(_: &Lua, (options, sections): (LuaTable, Vec<LuaString>)) -> LuaResult<Option<Vec<String>>> {
    let sections: Vec<String> = sections.iter().map(LuaString::to_string_lossy).collect();
    let mut known: Vec<&str> = names().collect();
    known.extend(sections.iter().map(String::as_str));
    let mut hints = Vec::new();
    for (key, value) in options.pairs::<LuaValue, LuaValue>().filter_map(Result::ok) {
        let name = key.to_string().unwrap_or_default();
        // A module's name has a dot: its options may wait here for being used.
        let is_module = value.is_table() && name.contains('.');
        if array::is_absent(&value) || is_module || known.contains(&name.as_str()) {
            continue;
        }
        // Version 3 has its options in tables: `cookie = { lifetime = … }`.
        let fields = value.as_table().filter(|_| matches!(name.as_str(), "cookie" | "check" | "random" | "aes"));
        let fields: Vec<LuaString> = fields
            .into_iter()
            .flat_map(|table| table.pairs::<LuaString, LuaValue>())
            .flatten()
            .map(|(key, _)| key)
            .collect();
        hints.extend(
            fields.iter().map(|field| hint(None, &[name.as_bytes(), b".", &field.as_bytes()].concat(), &known)),
        );
        if fields.is_empty() {
            hints.push(hint(None, name.as_bytes(), &known));
        }
    }
    hints.sort();
    Ok((!hints.is_empty()).then_some(hints))
}

/// `init(options, previous, stored, storage)`: the defaults of all later configurations, or `nil, err`. `stored` says whether there
/// is a storage; it is given if it is one on the bridge.
fn init(
    lua: &Lua,
    args: (Option<LuaTable>, Option<HandleRef>, bool, Option<StorageRef>),
) -> LuaResult<Answer<LuaTable>> {
    let (options, previous, stored, storage) = args;
    let previous = previous.as_ref().map(|previous| &*previous.configuration);
    let configuration = read(options).and_then(|options| session::init(options, previous, getrandom::fill));
    describe(lua, configuration, stored, storage)
}

/// `new(options, defaults, stored, storage)`: the configuration of a session, or `nil, err`.
fn new(lua: &Lua, args: (Option<LuaTable>, HandleRef, bool, Option<StorageRef>)) -> LuaResult<Answer<LuaTable>> {
    let (options, defaults, stored, storage) = args;
    let configuration = read(options).and_then(|options| session::new(options, &defaults.configuration));
    describe(lua, configuration, stored, storage)
}

fn read(options: Option<LuaTable>) -> Result<Options, Error> {
    let Some(options) = options else { return Ok(Options::default()) };
    Options::read(|name| {
        // A configuration is a plain table; where reading it raises, the option counts as unreadable.
        let value = options.get(name).unwrap_or(LuaValue::Error(Box::new(LuaError::runtime(name))));
        Ok(value_of(value, true))
    })
}

/// An option's value; `None` if it counts as absent. No option is a list of lists: what is deeper is only named.
fn value_of(value: LuaValue, may_be_list: bool) -> Option<Value> {
    Some(match value {
        value if array::is_absent(&value) => return None,
        LuaValue::Boolean(boolean) => Value::Boolean(boolean),
        LuaValue::Integer(number) => Value::Number(number as f64),
        LuaValue::Number(number) => Value::Number(number),
        LuaValue::String(text) => Value::Text((&*text.as_bytes()).into()),
        LuaValue::Table(list) if may_be_list => match array::elements(&list) {
            Some(elements) => Value::List(elements.into_iter().filter_map(|value| value_of(value, false)).collect()),
            None => Value::Other(NAMED_FIELDS),
        },
        other => Value::Other(array::type_name(&other)),
    })
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

/// What the shim needs to know of a configuration, and the handle to give back with every act. For a storage on the
/// bridge there is a second handle, whose acts call the storage's methods in Lua.
fn describe(
    lua: &Lua,
    configuration: Result<Configuration, Error>,
    stored: bool,
    storage: Option<StorageRef>,
) -> LuaResult<Answer<LuaTable>> {
    let configuration = match configuration.and_then(|configuration| configuration.with_storage(stored)) {
        Ok(configuration) => configuration,
        Err(error) => return Ok(answer(Err(error))),
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
    let configuration = Rc::new(configuration);
    if let Some(storage) = storage {
        let storage = Some(storage.clone());
        table.set("calling_handle", Handle { configuration: configuration.clone(), storage: None })?;
        table.set("handle", Handle { configuration, storage })?;
    } else {
        table.set("handle", Handle { configuration, storage: None })?;
    }
    Ok(answer(Ok::<_, Error>(table)))
}
