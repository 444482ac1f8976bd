//! The options of the MySQL storage.

use mlua::prelude::*;

use super::sql::TABLES;
use super::{CLEANUP, ENDPOINT, LOGIN, Names, Reader, TIMEOUTS};
use resty_session_storages::mysql::{DIALECT, Options};

pub(super) const NAMES: Names = &[ENDPOINT, TIMEOUTS, LOGIN, TABLES, CLEANUP, &["charset", "max_packet_size"]];

const PORT: u16 = 3306;

pub fn mysql(table: Option<&LuaTable>) -> Result<Options, String> {
    let reader = Reader::new("mysql", table);
    reader.unneeded(&["backlog"], &[])?;
    let charset = reader.text("charset")?;
    let is_charset = |charset: &String| charset.chars().all(|c| c.is_ascii_alphanumeric() || c == '_');
    if !charset.as_ref().is_none_or(is_charset) {
        return Err(reader.invalid("charset", "it is no character set's name"));
    }
    let max_packet_size = reader.number("max_packet_size")?;
    Ok(Options {
        address: reader.address(PORT)?,
        username: reader.text("username")?,
        password: reader.password("password")?,
        database: reader.text("database")?,
        charset,
        max_packet_size: max_packet_size
            .filter(|size| *size > 0)
            .map(|size| usize::try_from(size).unwrap_or(usize::MAX)),
        tls: reader.tls()?,
        tables: reader.tables(DIALECT)?,
        timeouts: reader.timeouts()?,
        pool_size: reader.pool_size()?,
        cleanup: reader.cleanup()?,
        pool: reader.text("pool")?,
    })
}
