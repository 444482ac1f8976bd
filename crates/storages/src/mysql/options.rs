//! The options of the MySQL storage.

use std::sync::Arc;
use std::time::Duration;

use resty_session_core::settings::{self, Names, Reader, Section};

use super::MySql;
use crate::cleanup::Cleanup;
use crate::connections::{Servers, Timeouts};
use crate::credentials::Login;
use crate::network::{Address, Target, Tls};
use crate::options::{LOGIN, TIMEOUTS};
use crate::repeating::Repeating;
use crate::sql::options::pool_size;
use crate::sql::{Dialect, Tables};
use crate::{Options, Storage};

/// How names are written, and the tables.
pub const DIALECT: Dialect = Dialect { quote: '`', longest: 64, schema: include_str!("../../../../sql/mysql.sql") };

/// Which server and tables, and how to use them. It has no `Debug`, because it holds a password.
#[derive(Clone, PartialEq, Eq, Hash)]
pub struct MySqlOptions {
    /// The server.
    pub server: ServerOptions,
    /// The names of the tables.
    pub tables: Tables,
    /// How expired records are removed.
    pub cleanup: Cleanup,
}

/// Which server and database, and how to connect. It has no `Debug`, because it holds a password.
#[derive(Clone, PartialEq, Eq, Hash)]
pub struct ServerOptions {
    /// The servers, of which one that takes writes is used.
    pub addresses: Vec<Address>,
    /// The credentials to sign in with.
    pub login: Login,
    /// The database.
    pub database: Option<String>,
    /// The character set of the connection, if it is not the server's default.
    pub charset: Option<String>,
    /// The largest packet that is sent, in bytes.
    pub max_packet_size: Option<usize>,
    /// How TLS is spoken; `None` speaks none.
    pub tls: Option<Tls>,
    /// How long the server may take.
    pub timeouts: Timeouts,
    /// The most connections of a worker.
    pub pool_size: usize,
    /// Storages with different names share no connection.
    pub pool: Option<String>,
}

impl Section for MySqlOptions {
    const STORAGE: &'static str = "mysql";
    const OPTIONS: Names = &[
        Target::OPTIONS,
        Tls::OPTIONS,
        TIMEOUTS,
        LOGIN,
        Tables::OPTIONS,
        Cleanup::OPTIONS,
        &["charset", "max_packet_size"],
    ];

    fn read(reader: &Reader) -> Result<Self, settings::Error> {
        reader.check_unneeded(&["backlog"], &[])?;
        Ok(Self {
            server: ServerOptions::read(reader)?,
            tables: Tables::read(reader, DIALECT)?,
            cleanup: Cleanup::read(reader)?,
        })
    }
}

impl ServerOptions {
    fn read(reader: &Reader) -> Result<Self, settings::Error> {
        const PORT: u16 = 3306;
        let max_packet_size = reader.number("max_packet_size")?.filter(|size| *size > 0);
        Ok(Self {
            addresses: Address::read_all(reader, PORT)?,
            login: Login::read(reader)?,
            database: reader.text("database")?,
            charset: read_charset(reader)?,
            max_packet_size: max_packet_size.map(|size| usize::try_from(size).unwrap_or(usize::MAX)),
            tls: Tls::read(reader)?,
            timeouts: Timeouts::read(reader)?,
            pool_size: pool_size(reader)?,
            pool: reader.text("pool")?,
        })
    }
}

/// It becomes a part of a statement, so nothing but a name may be in it.
fn read_charset(reader: &Reader) -> Result<Option<String>, settings::Error> {
    let charset = reader.text("charset")?;
    let is_name = |charset: &String| charset.chars().all(|c| c.is_ascii_alphanumeric() || c == '_');
    match charset.as_ref().is_none_or(is_name) {
        true => Ok(charset),
        false => Err(reader.invalid("charset", "not a valid character set name")),
    }
}

impl Options for MySqlOptions {
    fn limit(&self) -> Duration {
        self.server.timeouts.limit()
    }

    fn storage(self, servers: &Servers) -> Arc<dyn Storage> {
        Repeating::new(MySql::new(self, servers))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::options::tests::{problem, read};
    use serde_json::json;

    #[test]
    fn defaults() {
        let MySqlOptions { server, tables, .. } =
            read(json!({ "max_packet_size": 0 })).unwrap_or_else(|problem| panic!("{problem}"));
        assert_eq!(server.addresses, [Address::parse("127.0.0.1", 3306).unwrap()]);
        assert_eq!((server.login.username(), server.database, server.charset), (None, None, None));
        assert_eq!((server.max_packet_size, server.tls, server.pool_size), (None, None, 8));
        assert_eq!(tables.metadata, "sessions_meta");
    }

    #[test]
    fn what_becomes_part_of_a_statement_is_checked() {
        assert_eq!(
            problem::<MySqlOptions>(json!({ "charset": "latin1; --" })),
            "invalid mysql charset (not a valid character set name)"
        );
        assert_eq!(
            problem::<MySqlOptions>(json!({ "table_meta": "a b" })),
            "invalid mysql table_meta (not a valid table name)"
        );
        assert_eq!(problem::<MySqlOptions>(json!({ "charset": "utf8mb4", "table": "`a b`" })), "");
    }
}
