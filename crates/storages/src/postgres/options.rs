//! The options of the Postgres storage.

use std::sync::Arc;
use std::time::Duration;

use resty_session_core::secret::Password;
use resty_session_core::settings::{Error, Names, Reader, Section};

use super::Postgres;
use crate::cleanup::Cleanup;
use crate::connections::{Servers, Timeouts};
use crate::network::{Address, Target, Tls};
use crate::options::{LOGIN, TIMEOUTS};
use crate::repeating::Repeating;
use crate::sql::options::pool_size;
use crate::sql::{Dialect, Tables};
use crate::{Options, Storage};

/// How names are written, and the tables.
pub const DIALECT: Dialect = Dialect { quote: '"', longest: 63, schema: include_str!("../../../../sql/postgres.sql") };

/// Which server and database, and how to use them. It has no `Debug`, because it holds a password.
#[derive(Clone, PartialEq, Eq, Hash)]
pub struct PostgresOptions {
    /// The server.
    pub address: Address,
    /// The user to sign in as.
    pub username: String,
    /// The password that the user signs in with.
    pub password: Option<Password>,
    /// The database. If it is `None`, the server takes the one named like the user.
    pub database: Option<String>,
    /// The name that the server shows for its connections.
    pub application: Option<String>,
    /// Whether TLS is spoken.
    pub transport: Transport,
    /// The names of the tables.
    pub tables: Tables,
    /// How long the server may take.
    pub timeouts: Timeouts,
    /// Connections for writes, beside the one for reads.
    pub pool_size: usize,
    /// How expired records are removed.
    pub cleanup: Cleanup,
    /// Storages with different names share no connection.
    pub pool: Option<String>,
}

/// Whether TLS is spoken.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum Transport {
    /// No TLS.
    Plain,
    /// TLS, if the server has it. Its certificate is not verified.
    Preferred(Tls),
    /// TLS, or an error if the server has none.
    Required(Tls),
}

impl Transport {
    fn read(reader: &Reader) -> Result<Self, Error> {
        Ok(match (Tls::read(reader)?, reader.switch("ssl_required")?) {
            (None, Some(true)) => return Err(reader.invalid("ssl_required", "it needs ssl")),
            (None, _) => Self::Plain,
            // Without TLS there is nothing to verify.
            (Some(tls), required) if tls.verify || required == Some(true) => Self::Required(tls),
            (Some(tls), _) => Self::Preferred(tls),
        })
    }
}

impl Section for PostgresOptions {
    const STORAGE: &'static str = "postgres";
    const OPTIONS: Names = &[
        Target::OPTIONS,
        Tls::OPTIONS,
        TIMEOUTS,
        LOGIN,
        Tables::OPTIONS,
        Cleanup::OPTIONS,
        &["application", "ssl_required"],
    ];

    fn read(reader: &Reader) -> Result<Self, Error> {
        const PORT: u16 = 5432;
        reader.check_unneeded(&["backlog"], &[])?;
        Ok(Self {
            address: Address::read_in_directory(reader, PORT)?,
            username: reader.text("username")?.unwrap_or_else(|| "postgres".into()),
            password: reader.password("password")?,
            database: reader.text("database")?,
            application: reader.text("application")?,
            transport: Transport::read(reader)?,
            tables: Tables::read(reader, DIALECT)?,
            timeouts: Timeouts::read(reader)?,
            pool_size: pool_size(reader)?,
            cleanup: Cleanup::read(reader)?,
            pool: reader.text("pool")?,
        })
    }
}

impl Options for PostgresOptions {
    fn limit(&self) -> Duration {
        self.timeouts.limit()
    }

    fn storage(self, _: &Servers) -> Arc<dyn Storage> {
        Repeating::new(Postgres::new(self))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::options::tests::{problem, read};
    use serde_json::json;

    fn options(json: serde_json::Value) -> PostgresOptions {
        read(json).unwrap_or_else(|problem| panic!("{problem}"))
    }

    #[test]
    fn defaults_are_lua_resty_sessions() {
        let built_in = options(json!({}));
        assert_eq!(built_in.address, Address::parse("127.0.0.1", 5432).unwrap());
        assert_eq!((built_in.username.as_str(), built_in.database, built_in.pool_size), ("postgres", None, 8));
        assert_eq!(built_in.tables, Tables { sessions: "sessions".into(), metadata: "sessions_meta".into() });
        assert!(built_in.password.is_none() && built_in.transport == Transport::Plain);
    }

    #[test]
    fn tls_is_preferred_or_required() {
        let transport = |json| options(json).transport;
        for json in [
            json!({ "ssl": true }),
            json!({ "ssl": true, "ssl_verify": true }),
            json!({ "ssl": true, "ssl_required": false }),
            json!({ "ssl": true, "ssl_verify": false, "ssl_required": true }),
        ] {
            assert!(matches!(transport(json.clone()), Transport::Required(_)), "{json}");
        }
        assert!(matches!(transport(json!({ "ssl": true, "ssl_verify": false })), Transport::Preferred(_)));
        assert_eq!(transport(json!({ "ssl": false })), Transport::Plain);
        let problem = problem::<PostgresOptions>(json!({ "ssl": false, "ssl_required": true }));
        assert_eq!(problem, "invalid postgres ssl_required (it needs ssl)");
    }

    #[test]
    fn a_socket_may_be_given_by_its_directory() {
        let directory = std::env::temp_dir();
        let directory = directory.to_str().unwrap().trim_end_matches('/');
        let socket = |path: String| options(json!({ "socket": path, "port": 5433 })).address;
        for path in [directory.to_owned(), format!("unix:{directory}/")] {
            assert_eq!(socket(path), Address::Unix(format!("{directory}/.s.PGSQL.5433")));
        }
        assert_eq!(socket("/no/such/socket".into()), Address::Unix("/no/such/socket".into()));
    }

    #[test]
    fn names_of_tables_are_checked() {
        let tables = options(json!({ "table": "app.s", "table_name_meta": "\"My meta\"" })).tables;
        assert_eq!(tables, Tables { sessions: "app.s".into(), metadata: "\"My meta\"".into() });
        assert_eq!(options(json!({ "table": "\"My\"" })).tables.metadata, "\"My_meta\"");
        assert_eq!(
            problem::<PostgresOptions>(json!({ "table_name": "a", "table": "a; DROP TABLE x" })),
            "invalid postgres table (not a valid table name)"
        );
    }

    #[test]
    fn a_pool_has_room_for_one_and_for_a_thousand() {
        let size = |size: f64| options(json!({ "pool_size": size })).pool_size;
        assert_eq!((size(0.0), size(2.5), size(1e9)), (1, 3, 1024));
    }
}
