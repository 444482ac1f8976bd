//! The options of the MySQL storage.

use std::sync::Arc;
use std::time::Duration;

use mysql_async::{Opts, OptsBuilder, SslOpts};
use resty_session_core::secret::Password;
use resty_session_core::settings::{self, Names, Reader, Section};

use super::MySql;
use crate::cleanup::Cleanup;
use crate::connections::{Servers, Timeouts};
use crate::network::{self, Address, Target, Tls};
use crate::options::{LOGIN, TIMEOUTS};
use crate::repeating::Repeating;
use crate::sql::options::pool_size;
use crate::sql::{Dialect, Tables};
use crate::{Error, Options, Storage};

/// How names are written, and the tables.
pub const DIALECT: Dialect = Dialect { quote: '`', longest: 64, schema: include_str!("../../../../sql/mysql.sql") };

/// How long a connection is silent before the system asks whether the other side is there.
const TCP_KEEPALIVE: Duration = Duration::from_secs(60);

/// Which server and database, and how to use them. It has no `Debug`, because it holds a password.
#[derive(Clone, PartialEq, Eq, Hash)]
pub struct MySqlOptions {
    /// The server.
    pub address: Address,
    /// The user to sign in as.
    pub username: Option<String>,
    /// The password that the user signs in with.
    pub password: Option<Password>,
    /// The database.
    pub database: Option<String>,
    /// The character set of the connection, if it is not the server's default.
    pub charset: Option<String>,
    /// The largest packet that is sent, in bytes.
    pub max_packet_size: Option<usize>,
    /// How TLS is spoken; `None` speaks none.
    pub tls: Option<Tls>,
    /// The names of the tables.
    pub tables: Tables,
    /// How long the server may take.
    pub timeouts: Timeouts,
    /// The most connections of a worker.
    pub pool_size: usize,
    /// How expired records are removed.
    pub cleanup: Cleanup,
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
        const PORT: u16 = 3306;
        reader.check_unneeded(&["backlog"], &[])?;
        let max_packet_size = reader.number("max_packet_size")?.filter(|size| *size > 0);
        Ok(Self {
            address: Address::read(reader, PORT)?,
            username: reader.text("username")?,
            password: reader.password("password")?,
            database: reader.text("database")?,
            charset: read_charset(reader)?,
            max_packet_size: max_packet_size.map(|size| usize::try_from(size).unwrap_or(usize::MAX)),
            tls: Tls::read(reader)?,
            tables: Tables::read(reader, DIALECT)?,
            timeouts: Timeouts::read(reader)?,
            pool_size: pool_size(reader)?,
            cleanup: Cleanup::read(reader)?,
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
        self.timeouts.limit()
    }

    fn storage(self, _: &Servers) -> Arc<dyn Storage> {
        Repeating::new(MySql::new(self))
    }
}

impl MySqlOptions {
    /// # Errors
    ///
    /// The system has no authorities to verify certificates with.
    pub(super) fn driver(&self) -> Result<Opts, Error> {
        let mut builder = OptsBuilder::default()
            // Use TCP even for localhost.
            .prefer_socket(false)
            .user(self.username.clone())
            .pass(self.password.as_deref())
            .db_name(self.database.clone())
            .max_allowed_packet(self.max_packet_size)
            .stmt_cache_size(64)
            // A row whose update changes nothing counts, too.
            .client_found_rows(true)
            .enable_cleartext_plugin(self.is_private())
            .tcp_keepalive(Some(TCP_KEEPALIVE))
            .setup(self.setup());
        match &self.address {
            Address::Unix(path) => builder = builder.socket(Some(path.clone())),
            Address::Tcp(node) => {
                builder = builder.ip_or_hostname(node.host.clone()).tcp_port(node.port);
                if let Some(tls) = &self.tls {
                    builder = builder.ssl_opts(ssl(tls)?);
                }
            }
        }
        Ok(builder.into())
    }

    /// Whether nobody but the server can read what is sent to it, so that the password may be sent
    /// as it is. Servers that check it elsewhere, as clouds check their tokens, ask for that.
    fn is_private(&self) -> bool {
        match &self.address {
            Address::Unix(_) => true,
            Address::Tcp(_) => self.tls.as_ref().is_some_and(|tls| tls.verify),
        }
    }

    /// Returns the statements to run on a new connection. They make values that do not fit errors,
    /// and limit the time for which the server waits for a lock; a shorter limit of the server is
    /// kept. (MariaDB's `max_statement_time` would do more, but it crashes MariaDB 10.11 if the
    /// disk is full.)
    fn setup(&self) -> Vec<String> {
        let seconds = self.timeouts.response.as_secs_f64().ceil().max(1.0);
        let mut setup = vec![format!(
            "SET sql_mode = CONCAT_WS(',', NULLIF(@@sql_mode, ''), 'STRICT_ALL_TABLES'), \
             autocommit = 1, lock_wait_timeout = LEAST(@@lock_wait_timeout, {seconds}), \
             innodb_lock_wait_timeout = LEAST(@@innodb_lock_wait_timeout, {seconds})"
        )];
        if let Some(charset) = &self.charset {
            setup.push(format!("SET NAMES {charset}"));
        }
        setup
    }
}

fn ssl(tls: &Tls) -> Result<SslOpts, Error> {
    let options = SslOpts::default();
    let options = match &tls.server_name {
        Some(name) => options.with_danger_tls_hostname_override(Some(name.clone())),
        None => options,
    };
    if !tls.verify {
        return Ok(options.with_danger_accept_invalid_certs(true));
    }
    let roots = network::system_roots().map_err(network::connect_error)?;
    let roots = roots.iter().map(|root| root.to_vec().into()).collect();
    Ok(options.with_disable_built_in_roots(true).with_root_certs(roots))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::options::tests::{problem, read};
    use serde_json::json;

    #[test]
    fn defaults() {
        let built_in: MySqlOptions =
            read(json!({ "max_packet_size": 0 })).unwrap_or_else(|problem| panic!("{problem}"));
        assert_eq!(built_in.address, Address::parse("127.0.0.1", 3306).unwrap());
        assert_eq!((built_in.username, built_in.database, built_in.charset), (None, None, None));
        assert_eq!((built_in.max_packet_size, built_in.tls, built_in.pool_size), (None, None, 8));
        assert_eq!(built_in.tables.metadata, "sessions_meta");
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
