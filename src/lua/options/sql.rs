//! The options that the SQL storages share.

use super::Reader;
use resty_session_storages::sql::{Dialect, Tables};

pub(super) const TABLES: &[&str] = &["table_name", "table", "table_name_meta", "table_meta"];

/// Connections that a worker's writes, or all of its operations, may use, where it is not configured.
const POOL_SIZE: u64 = 8;
const MOST: u64 = 1024;

impl Reader<'_> {
    pub(super) fn tables(&self, dialect: Dialect) -> Result<Tables, String> {
        let sessions = self.table(["table_name", "table"], dialect)?.unwrap_or_else(|| "sessions".into());
        let metadata = self.table(["table_name_meta", "table_meta"], dialect)?;
        let metadata = metadata.unwrap_or_else(|| dialect.extended(&sessions, "_meta"));
        Ok(Tables { sessions, metadata })
    }

    /// A table's name, by the first of two options that is there.
    fn table(&self, options: [&str; 2], dialect: Dialect) -> Result<Option<String>, String> {
        let mut table = None;
        for option in options {
            let Some(name) = self.text(option)? else { continue };
            if !dialect.is_table(&name) {
                return Err(self.invalid(option, "it is no table's name"));
            }
            table = table.or(Some(name));
        }
        Ok(table)
    }

    pub(super) fn pool_size(&self) -> Result<usize, String> {
        Ok(self.number("pool_size")?.unwrap_or(POOL_SIZE).clamp(1, MOST) as usize)
    }
}
