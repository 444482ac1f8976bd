//! The options of the storage in nginx's shared memory, which is written in Lua.

use mlua::prelude::*;

use super::{NAMING, Names, Reader};
use resty_session_storages::Naming;

pub(super) const NAMES: Names = &[NAMING, &["zone"]];

/// Where nginx's shared memory holds sessions.
pub struct Options {
    /// The dictionary's name.
    pub zone: String,
    pub naming: Naming,
}

/// The options of a storage in shared memory.
pub fn shm(table: Option<&LuaTable>) -> Result<Options, String> {
    let reader = Reader::new("shm", table);
    let naming = Naming { prefix: part(&reader, "prefix")?, suffix: part(&reader, "suffix")? };
    Ok(Options { zone: reader.text("zone")?.unwrap_or_else(|| "sessions".into()), naming })
}

/// An empty part leaves its `:` in the names of entries here, as in lua-resty-session.
fn part(reader: &Reader, option: &str) -> Result<Option<String>, String> {
    match reader.value(option)? {
        LuaValue::String(text) if text.as_bytes().is_empty() => Ok(Some(String::new())),
        _ => reader.text(option),
    }
}
