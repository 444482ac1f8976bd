//! What the MySQL storage is configured with.

use std::sync::Arc;
use std::time::Duration;

use mysql_async::{Opts, OptsBuilder, SslOpts};

use super::MySql;
use crate::cleanup::Cleanup;
use crate::network::{Address, Timeouts, Tls};
use crate::repeating::Repeating;
use crate::sql::{Dialect, Tables};
use crate::{Error, Storage};
use resty_session_core::secret::Password;

pub const DIALECT: Dialect = Dialect { quote: '`', longest: 64, schema: include_str!("../../../../sql/mysql.sql") };

/// How long a connection is silent before the system asks whether the other side is there.
const TCP_KEEPALIVE: Duration = Duration::from_secs(60);

/// It holds a password, and so has no `Debug`.
#[derive(Clone, PartialEq, Eq, Hash)]
pub struct Options {
    pub address: Address,
    pub username: Option<String>,
    pub password: Option<Password>,
    pub database: Option<String>,
    pub charset: Option<String>,
    /// The largest packet that is sent, in bytes.
    pub max_packet_size: Option<usize>,
    pub tls: Option<Tls>,
    pub tables: Tables,
    pub timeouts: Timeouts,
    pub pool_size: usize,
    pub cleanup: Cleanup,
    /// Storages with different names share no connection.
    pub pool: Option<String>,
}

impl crate::Options for Options {
    fn limit(&self) -> Duration {
        self.timeouts.limit()
    }

    fn storage(self) -> Arc<dyn Storage> {
        Repeating::new(MySql::new(self))
    }
}

impl Options {
    /// # Errors
    ///
    /// The system has no authorities to verify certificates with.
    pub(super) fn driver(&self) -> Result<Opts, Error> {
        let mut builder = OptsBuilder::default()
            // Who configures localhost gets localhost.
            .prefer_socket(false)
            .user(self.username.clone())
            .pass(self.password.as_deref())
            .db_name(self.database.clone())
            .max_allowed_packet(self.max_packet_size)
            .stmt_cache_size(64)
            // A row that is updated to what it was counts, too.
            .client_found_rows(true)
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

    /// What a new connection is told. Values that do not fit are errors, and the server gives up by itself on a lock that
    /// takes longer than its answer is waited for; a shorter limit of its own stands. (MariaDB's `max_statement_time`
    /// would do more, but MariaDB 10.11 dies of it where the disk is full.)
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
    let roots = Tls::roots().map_err(|error| Error::Connect(error.to_string()))?;
    let roots = roots.into_iter().map(|root| root.to_vec().into()).collect();
    Ok(options.with_disable_built_in_roots(true).with_root_certs(roots))
}
