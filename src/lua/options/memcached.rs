//! The options of the memcached storage.

use mlua::prelude::*;

use super::{ENDPOINT, NAMING, Names, Reader, TIMEOUTS};
use resty_session_storages::memcached::Options;

pub(super) const NAMES: Names = &[ENDPOINT, TIMEOUTS, NAMING];

/// The options of a memcached storage.
pub fn memcached(table: Option<&LuaTable>) -> Result<Options, String> {
    const PORT: u16 = 11211;
    let reader = Reader::new("memcached", table);
    Ok(Options { endpoint: reader.endpoint(PORT)?, naming: reader.naming()? })
}
