//! The border to Lua: the only code that knows mlua. Arguments come in, values go out, errors
//! become strings.
//!
//! A function that can fail returns `nil, "text"`; none raises, because an error raised here would
//! reach Lua as a userdata, whose text neither nginx's log nor a program's `pcall` can read.
//! Arguments of a wrong type are the exception: only a mistake in the shim can bring them about.

mod acts;
mod blocks;
mod bridge;
mod configuration;
mod functions;
mod instance;
mod revocation;
mod rows;
mod running;
mod status;
mod storage_handle;
mod storages;
mod subjects;
mod synchronize;
mod upgrades;
mod utils;
mod values;

use mlua::prelude::*;

/// The native module: the API's six functions by name, the acts on an instance, and what `utils`
/// needs.
pub fn module(lua: &Lua) -> LuaResult<LuaTable> {
    if let Some(refusal) = upgrades::refuse(lua)? {
        return Ok(refusal);
    }
    let module = lua.create_table()?;
    module.set("_VERSION", env!("CARGO_PKG_VERSION"))?;
    configuration::register(lua, &module)?;
    acts::register(lua, &module)?;
    revocation::register(lua, &module)?;
    instance::register(lua, &module)?;
    subjects::register(lua, &module)?;
    synchronize::register(lua, &module)?;
    module.set("bridge", bridge::table(lua)?)?;
    module.set("storages", storages::table(lua)?)?;
    module.set("utils", utils::table(lua)?)?;
    Ok(module)
}

/// A result in Lua's way: the value, or `nil, "text"`.
type ValueOrError<T> = (Option<T>, Option<String>);

fn value_or_error<T>(result: Result<T, impl std::fmt::Display>) -> ValueOrError<T> {
    match result {
        Ok(value) => (Some(value), None),
        Err(error) => (None, Some(error.to_string())),
    }
}
