//! The options of the dshm storage.

use mlua::prelude::*;

use super::{ENDPOINT, NAMING, Names, Reader, TIMEOUTS};
use resty_session_storages::dshm::Options;

pub(super) const NAMES: Names = &[ENDPOINT, TIMEOUTS, NAMING];

/// The options of a dshm storage.
pub fn dshm(table: Option<&LuaTable>) -> Result<Options, String> {
    const PORT: u16 = 4321;
    let reader = Reader::new("dshm", table);
    Ok(Options { endpoint: reader.endpoint(PORT)?, naming: reader.naming()? })
}
