//! The options that the storages in SQL databases share.

use resty_session_core::settings::{Error, Reader};

use super::{Dialect, Tables};

impl Tables {
    pub(crate) const OPTIONS: &[&str] = &["table_name", "table", "table_name_meta", "table_meta"];

    /// Reads the names of the tables. Unless that of the metadata is given, it follows from the
    /// other one.
    pub(crate) fn read(reader: &Reader, dialect: Dialect) -> Result<Self, Error> {
        let sessions = table(reader, dialect, ["table_name", "table"])?.unwrap_or_else(|| "sessions".into());
        let metadata = table(reader, dialect, ["table_name_meta", "table_meta"])?;
        let metadata = metadata.unwrap_or_else(|| dialect.extended(&sessions, "_meta"));
        Ok(Self { sessions, metadata })
    }
}

/// Reads a table's name from the first of two options that is given. Both are checked.
fn table(reader: &Reader, dialect: Dialect, options: [&str; 2]) -> Result<Option<String>, Error> {
    let mut table = None;
    for option in options {
        let Some(name) = reader.text(option)? else { continue };
        if !dialect.is_table(&name) {
            return Err(reader.invalid(option, "not a valid table name"));
        }
        table = table.or(Some(name));
    }
    Ok(table)
}

/// How many connections a worker's writes, or all of its operations, may use.
pub(crate) fn pool_size(reader: &Reader) -> Result<usize, Error> {
    const POOL_SIZE: u64 = 8;
    const MOST: u64 = 1024;
    Ok(reader.number("pool_size")?.unwrap_or(POOL_SIZE).clamp(1, MOST) as usize)
}
