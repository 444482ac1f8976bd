//! The options of the dshm storage.

use mlua::prelude::*;

use super::Reader;
use crate::storage::dshm::Options;

/// The options of a dshm storage.
pub fn dshm(table: Option<&LuaTable>) -> Result<Options, String> {
    const PORT: u16 = 4321;
    let reader = Reader { storage: "dshm", table };
    Ok(Options { endpoint: reader.endpoint(PORT)?, naming: reader.naming()? })
}
