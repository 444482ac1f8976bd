//! The options of the Postgres storage.

use mlua::prelude::*;

use super::sql::TABLES;
use super::{CLEANUP, ENDPOINT, LOGIN, Names, Reader, TIMEOUTS};
use resty_session_storages::network::Address;
use resty_session_storages::postgres::{DIALECT, Options, Transport};

pub(super) const NAMES: Names = &[ENDPOINT, TIMEOUTS, LOGIN, TABLES, CLEANUP, &["application", "ssl_required"]];

const PORT: u16 = 5432;

pub fn postgres(table: Option<&LuaTable>) -> Result<Options, String> {
    let reader = Reader::new("postgres", table);
    reader.unneeded(&["backlog"], &[])?;
    let transport = match (reader.tls()?, reader.switch("ssl_required")?) {
        (None, Some(true)) => return Err(reader.invalid("ssl_required", "it needs ssl")),
        (None, _) => Transport::Plain,
        (Some(tls), Some(true)) => Transport::Required(tls),
        (Some(tls), _) => Transport::Preferred(tls),
    };
    Ok(Options {
        address: address(&reader)?,
        username: reader.text("username")?.unwrap_or_else(|| "postgres".into()),
        password: reader.password("password")?,
        database: reader.text("database")?,
        application: reader.text("application")?,
        transport,
        tables: reader.tables(DIALECT)?,
        timeouts: reader.timeouts()?,
        pool_size: reader.pool_size()?,
        cleanup: reader.cleanup()?,
        pool: reader.text("pool")?,
    })
}

/// A socket may be given by its directory, as libpq has it.
fn address(reader: &Reader) -> Result<Address, String> {
    match reader.address(PORT)? {
        Address::Unix(path) if std::path::Path::new(&path).is_dir() => {
            Ok(Address::Unix(format!("{}/.s.PGSQL.{}", path.trim_end_matches('/'), reader.port(PORT)?)))
        }
        address => Ok(address),
    }
}
