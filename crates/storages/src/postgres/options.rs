//! The options of the Postgres storage.

use std::sync::Arc;
use std::time::Duration;

use resty_session_core::settings::{Error, Names, Reader, Section};

use super::Postgres;
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
pub const DIALECT: Dialect = Dialect { quote: '"', longest: 63, schema: include_str!("../../../../sql/postgres.sql") };

/// Which server and tables, and how to use them. It has no `Debug`, because it holds a password.
#[derive(Clone, PartialEq, Eq, Hash)]
pub struct PostgresOptions {
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
    /// The servers, of which the one that takes writes is used.
    pub addresses: Vec<Address>,
    /// Which of them reads come from.
    pub read_from: ReadFrom,
    /// The credentials to sign in with.
    pub login: Login,
    /// The database. If it is `None`, the server takes the one named like the user.
    pub database: Option<String>,
    /// The name that the server shows for its connections.
    pub application: Option<String>,
    /// Whether TLS is spoken.
    pub transport: Transport,
    /// How long the server may take.
    pub timeouts: Timeouts,
    /// Connections for writes, beside the one for reads.
    pub pool_size: usize,
    /// Storages with different names share no connection.
    pub pool: Option<String>,
}

/// Which of several servers reads come from.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum ReadFrom {
    /// The one that takes writes.
    Primary,
    /// One that does not, if it has the record.
    Replica,
}

impl ReadFrom {
    fn read(reader: &Reader, servers: usize) -> Result<Self, Error> {
        match reader.text("read_from")?.as_deref() {
            None | Some("primary") => Ok(Self::Primary),
            Some("replica") if servers < 2 => Err(reader.invalid("read_from", "host must name several servers")),
            Some("replica") => Ok(Self::Replica),
            Some(_) => Err(reader.invalid("read_from", "\"primary\" or \"replica\" expected")),
        }
    }
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
        &["application", "ssl_required", "read_from"],
    ];

    fn read(reader: &Reader) -> Result<Self, Error> {
        reader.check_unneeded(&["backlog"], &[])?;
        Ok(Self {
            server: ServerOptions::read(reader)?,
            tables: Tables::read(reader, DIALECT)?,
            cleanup: Cleanup::read(reader)?,
        })
    }
}

impl ServerOptions {
    fn read(reader: &Reader) -> Result<Self, Error> {
        const PORT: u16 = 5432;
        let addresses = Address::read_all_in_directories(reader, PORT)?;
        Ok(Self {
            read_from: ReadFrom::read(reader, addresses.len())?,
            addresses,
            login: Login::read(reader)?.with_default_username("postgres"),
            database: reader.text("database")?,
            application: reader.text("application")?,
            transport: Transport::read(reader)?,
            timeouts: Timeouts::read(reader)?,
            pool_size: pool_size(reader)?,
            pool: reader.text("pool")?,
        })
    }
}

impl Options for PostgresOptions {
    fn limit(&self) -> Duration {
        self.server.timeouts.limit()
    }

    fn storage(self, servers: &Servers) -> Arc<dyn Storage> {
        Repeating::new(Postgres::new(self, servers))
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
        let PostgresOptions { server, tables, .. } = built_in;
        assert_eq!(server.addresses, [Address::parse("127.0.0.1", 5432).unwrap()]);
        let login = Login::default().with_default_username("postgres");
        assert!(server.login == login && server.transport == Transport::Plain);
        assert_eq!((server.database, server.pool_size), (None, 8));
        assert_eq!(tables, Tables { sessions: "sessions".into(), metadata: "sessions_meta".into() });
        assert_eq!(server.read_from, ReadFrom::Primary);
    }

    #[test]
    fn tls_is_preferred_or_required() {
        let transport = |json| options(json).server.transport;
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
        let addresses = |json| options(json).server.addresses;
        let socket = Address::Unix(format!("{directory}/.s.PGSQL.5433"));
        for path in [directory.to_owned(), format!("unix:{directory}/")] {
            assert_eq!(addresses(json!({ "socket": path, "port": 5433 })), std::slice::from_ref(&socket));
        }
        assert_eq!(addresses(json!({ "host": format!("unix:{directory}"), "port": 5433 })), [socket]);
        assert_eq!(addresses(json!({ "socket": "/no/such" })), [Address::Unix("/no/such".into())]);
    }

    #[test]
    fn several_hosts_are_an_array_or_separated_by_commas() {
        let parse =
            |hosts: &[(&str, u16)]| hosts.iter().map(|(host, port)| Address::parse(host, *port).unwrap()).collect();
        let expected: Vec<Address> = parse(&[("a", 6000), ("b", 7), ("::1", 6000)]);
        for host in [json!(["a", "b:7", "::1"]), json!("a, b:7,[::1]"), json!(["a,b:7", "[::1]:6000"])] {
            let read = options(json!({ "host": host.clone(), "port": 6000, "read_from": "replica" })).server;
            assert_eq!((read.addresses, read.read_from), (expected.clone(), ReadFrom::Replica), "{host}");
        }
        for (json, problem) in [
            (json!({ "host": "a,,b" }), "host (the host is missing)"),
            (json!({ "host": ["a", "b:0"] }), "host (the port must be a number from 1 to 65535)"),
            (json!({ "host": [] }), "host (it is empty)"),
            (json!({ "host": "a,a:5432" }), "host (it names a server twice)"),
            (json!({ "host": ["a"], "read_from": "replica" }), "read_from (host must name several servers)"),
            (json!({ "host": "a,b", "read_from": "slave" }), "read_from (\"primary\" or \"replica\" expected)"),
        ] {
            assert_eq!(self::problem::<PostgresOptions>(json), format!("invalid postgres {problem}"));
        }
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
        let size = |size: f64| options(json!({ "pool_size": size })).server.pool_size;
        assert_eq!((size(0.0), size(2.5), size(1e9)), (1, 3, 1024));
    }
}
