//! The options of the memcached storage.

use mlua::prelude::*;

use super::Reader;
use crate::storage::memcached::Options;

/// The options of a memcached storage.
pub fn memcached(table: Option<&LuaTable>) -> Result<Options, String> {
    const PORT: u16 = 11211;
    let reader = Reader { storage: "memcached", table };
    Ok(Options { endpoint: reader.endpoint(PORT)?, naming: reader.naming()? })
}
