//! `init` and `new`: a configuration table in, a handle and its description out.

use std::rc::Rc;

use mlua::BString;
use mlua::prelude::*;

use super::{Answer, answer};
use crate::session::configuration::{HEADERS, Value};
use crate::session::{self, Configuration, Error, Options};

/// A configuration that the shim holds on to.
pub struct Handle(pub Rc<Configuration>);

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

/// `init(options, previous, stored)`: the defaults of all later configurations, or `nil, err`.
fn init(
    lua: &Lua,
    (options, previous, stored): (Option<LuaTable>, Option<HandleRef>, bool),
) -> LuaResult<Answer<LuaTable>> {
    let previous = previous.as_ref().map(|previous| &*previous.0);
    let configuration = read(options).and_then(|options| session::init(options, previous, getrandom::fill));
    describe(lua, configuration, stored)
}

/// `new(options, defaults, stored)`: the configuration of a session, or `nil, err`.
fn new(lua: &Lua, (options, defaults, stored): (Option<LuaTable>, HandleRef, bool)) -> LuaResult<Answer<LuaTable>> {
    let configuration = read(options).and_then(|options| session::new(options, &defaults.0));
    describe(lua, configuration, stored)
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

/// What the shim needs to know of a configuration, and the handle to give back with every act.
fn describe(lua: &Lua, configuration: Result<Configuration, Error>, stored: bool) -> LuaResult<Answer<LuaTable>> {
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
    table.set("handle", Handle(Rc::new(configuration)))?;
    Ok(answer(Ok::<_, Error>(table)))
}
