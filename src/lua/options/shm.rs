//! The options of the storage in nginx's shared memory, which is written in Lua.

use mlua::prelude::*;

use super::{NAMING, Names, Reader};
use crate::storage::Naming;

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
    Ok(Options { zone: reader.text("zone")?.unwrap_or_else(|| "sessions".into()), naming: reader.naming()? })
}
