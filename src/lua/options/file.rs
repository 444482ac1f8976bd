//! The options of the storage in files.

use mlua::prelude::*;

use super::{CLEANUP, NAMING, Names, Reader, TIMEOUTS};
use resty_session_storages::file::{Options, is_safe};

/// Where lua-resty-session keeps its files too. A worker's environment is not the master's, so it has no say.
const PATH: &str = "/tmp";

pub(super) const NAMES: Names = &[TIMEOUTS, NAMING, CLEANUP, &["path", "pool"]];

/// The options of a storage in files.
pub fn file(table: Option<&LuaTable>) -> Result<Options, String> {
    let reader = Reader::new("file", table);
    let path = reader.text("path")?.unwrap_or_else(|| PATH.into());
    if path.contains('\0') {
        return Err(reader.invalid("path", "it holds a zero byte"));
    }
    reader.unneeded(&["connect_timeout", "keepalive_timeout"], &[])?;
    let naming = reader.naming()?;
    for (option, part) in [("prefix", &naming.prefix), ("suffix", &naming.suffix)] {
        if part.as_ref().is_some_and(|part| !is_safe(part)) {
            return Err(reader.invalid(option, "it holds \"/\" or a zero byte"));
        }
    }
    Ok(Options {
        path: path.into(),
        naming,
        pool: reader.text("pool")?,
        limit: reader.response_timeout()?,
        cleanup: reader.cleanup()?,
    })
}
