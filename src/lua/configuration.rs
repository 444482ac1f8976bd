//! `init` and `new`: a configuration table in, a handle and its description out.

use std::rc::Rc;

use mlua::BString;
use mlua::prelude::*;

use super::storages::{StorageHandle, StorageRef};
use super::{Answer, answer};
use crate::session::configuration::{HEADERS, Value};
use crate::session::{self, Configuration, Error, Options};

/// A configuration that the shim holds on to, and its storage, if that is one on the bridge.
pub struct Handle {
    pub configuration: Rc<Configuration>,
    pub storage: Option<StorageHandle>,
}

impl LuaUserData for Handle {}

type HandleRef = LuaUserDataRef<Handle>;

pub fn register(lua: &Lua, module: &LuaTable) -> LuaResult<()> {
    module.set("init", lua.create_function(init)?)?;
    module.set("new", lua.create_function(new)?)?;
    module.set("OPTIONS", Options::NAMES)?;
    let headers = lua.create_table()?;
    for (property, header) in HEADERS {
        headers.set(property, header)?;
    }
    module.set("HEADERS", headers)
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

/// No option is a list of lists: what is deeper is only named.
fn value_of(value: LuaValue, may_be_list: bool) -> Option<Value> {
    Some(match value {
        LuaValue::Nil => return None,
        LuaValue::Boolean(boolean) => Value::Boolean(boolean),
        LuaValue::Integer(number) => Value::Number(number as f64),
        LuaValue::Number(number) => Value::Number(number),
        LuaValue::String(text) => Value::Text(text.as_bytes().to_vec()),
        LuaValue::Table(list) if may_be_list => Value::List(
            list.sequence_values()
                .map(|value| value.map_or(None, |value| value_of(value, false)).unwrap_or(Value::Other("nil")))
                .collect(),
        ),
        other => Value::Other(other.type_name()),
    })
}

/// What the shim needs to know of a configuration, and the handle to give back with every act. For a storage on the
/// bridge there is a second handle, whose acts call the storage's methods in Lua.
fn describe(
    lua: &Lua,
    configuration: Result<Configuration, Error>,
    stored: bool,
    storage: Option<StorageRef>,
) -> LuaResult<Answer<LuaTable>> {
    let mut configuration = match configuration {
        Ok(configuration) => configuration,
        Err(error) => return Ok(answer(Err(error))),
    };
    configuration.stored = stored;
    let table = lua.create_table()?;
    table.set("cookie_name", &*configuration.cookie_name)?;
    table.set("cookie_flags", configuration.attributes.as_str())?;
    table.set("remember", configuration.remember)?;
    table.set("audience", BString::from(configuration.audience.clone()))?;
    table.set("subject", configuration.subject.clone().map(BString::from))?;
    table.set("request_headers", configuration.request_headers.clone())?;
    table.set("response_headers", configuration.response_headers.clone())?;
    let ikms = lua.create_table()?;
    for key in &configuration.keys {
        ikms.raw_push(lua.create_string(key.ikm())?)?;
    }
    table.set("ikms", ikms)?;
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
