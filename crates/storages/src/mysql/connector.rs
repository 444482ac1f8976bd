//! How connections to MySQL are made.

use std::net::{IpAddr, SocketAddr};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use mysql_async::prelude::Queryable as _;
use mysql_async::{ClientIdentity, Conn, Opts, OptsBuilder, Row, SslOpts, from_row_opt};
use rustls::{ClientConfig, RootCertStore};
use tokio::time::timeout;

use super::failures::{cause, describe, fault, refusal};
use super::options::ServerOptions;
use crate::connections::{Endpoint, Exclusive, ExclusiveConnector};
use crate::credentials::Credentials;
use crate::network::{self, Address, Tls, addresses, race};
use crate::sql::{Fault, Hosts, Refusal, Refusals, read_only};
use crate::{Error, Operation};

/// How long a connection is silent before the system asks whether the other side is there.
const TCP_KEEPALIVE: Duration = Duration::from_secs(60);

/// The servers, and what was found out about them.
pub struct Access {
    pub options: ServerOptions,
    pub hosts: Hosts,
    refusals: Refusals,
    /// The driver's settings, as long as the configuration of TLS stays the same: the driver keeps
    /// its own with them.
    driver: Mutex<Option<(Option<Arc<ClientConfig>>, Opts)>>,
}

/// Makes connections to the server that takes writes.
#[derive(Clone)]
pub struct Connect {
    access: Arc<Access>,
    endpoint: Arc<Endpoint>,
}

pub struct Connection {
    pub conn: Conn,
    /// Whether the server has carried out a statement that changes rows.
    pub has_written: bool,
    /// The server's position among those of the options.
    host: usize,
    access: Arc<Access>,
}

impl Exclusive for Connection {
    /// One to a server that another has replaced is closed, too.
    fn is_closed(&self) -> bool {
        self.conn.is_disconnected() || !self.access.hosts.is_current(self.host)
    }

    fn has_written(&self) -> bool {
        self.has_written
    }

    async fn is_alive(&mut self) -> bool {
        self.conn.ping().await.is_ok()
    }
}

impl ExclusiveConnector for Connect {
    type Connection = Connection;

    fn connect(&self) -> Operation<'static, Connection> {
        let me = self.clone();
        Box::pin(async move {
            let connect = async |host, address| {
                let conn = me.connect_to(address).await?;
                Ok(Connection { conn, has_written: false, host, access: me.access.clone() })
            };
            me.access.hosts.find(connect).await
        })
    }
}

impl Connect {
    pub fn new(access: Arc<Access>, endpoint: Arc<Endpoint>) -> Self {
        Self { access, endpoint }
    }

    /// Connects to the first of a server's addresses that can be reached.
    async fn connect_to(&self, address: &Address) -> Result<Conn, Error> {
        let node = match address {
            Address::Unix(path) => {
                let driver = self.access.options.driver().enable_cleartext_plugin(true).socket(Some(path.clone()));
                return self.access.options.login.sign_in(|login| self.sign_in(driver.clone(), login)).await;
            }
            Address::Tcp(node) => node,
        };
        let driver = self.access.driver()?;
        let driver = OptsBuilder::from_opts(driver).ip_or_hostname(node.host.clone()).tcp_port(node.port);
        let addresses = addresses(&node.host, node.port).await?;
        // All addresses are tried, because a server knows its users by the address that they come
        // from, too. That one has refused them counts more than that another is not there.
        let sign_in = async |login: Credentials| {
            let sign_in = |address| self.sign_in(driver.clone().resolved_ips(alone(address)), login.clone());
            race(addresses.clone(), sign_in).await
        };
        self.access.options.login.sign_in(sign_in).await
    }

    /// Signs in and prepares the connection. In a task, which goes on if another address is faster:
    /// a server that sees a host leave too often before it has signed in does not let it in any
    /// more.
    async fn sign_in(&self, driver: OptsBuilder, login: Credentials) -> Result<Conn, Error> {
        let driver = driver.user(login.username).pass(login.password.as_deref());
        let me = self.clone();
        let limit = self.access.options.timeouts.connect;
        let signing_in = tokio::spawn(timeout(limit, async move {
            let mut conn = Conn::new(driver).await.map_err(refused)?;
            me.apply_settings(&mut conn).await?;
            if me.access.hosts.are_several() && !takes_writes(&mut conn).await? {
                return Err(read_only());
            }
            Ok(conn)
        }));
        signing_in.await.map_err(|_| Error::Broken)?.unwrap_or(Err(Error::ConnectTimeout))
    }

    /// Applies the settings. Those that the server refuses are left out, but for the program's own.
    /// Without strictness values would be cut, so a server that refuses it must be strict by
    /// itself.
    async fn apply_settings(&self, conn: &mut Conn) -> Result<(), Error> {
        if let Some(charset) = &self.access.options.charset {
            conn.query_drop(format!("SET NAMES {charset}")).await.map_err(refused)?;
        }
        let refusals = &self.access.refusals;
        let wanted = settings(self.access.options.timeouts.response);
        let wanted = wanted.iter().filter(|(name, _)| !refusals.contain(name)).collect::<Vec<_>>();
        let all = wanted.iter().map(|(name, value)| format!(", {name} = {value}")).collect::<String>();
        match conn.query_drop(format!("{COMMIT_EACH}{all}")).await {
            Err(error) if fault(&error) == Fault::Failed => self.apply_each(conn, &wanted).await?,
            result => result.map_err(refused)?,
        }
        if refusals.contain(STRICTNESS) { demand_strictness(conn).await } else { Ok(()) }
    }

    async fn apply_each(&self, conn: &mut Conn, wanted: &[&(&'static str, String)]) -> Result<(), Error> {
        conn.query_drop(COMMIT_EACH).await.map_err(refused)?;
        for (name, value) in wanted {
            match conn.query_drop(format!("SET {name} = {value}")).await {
                Err(error) if fault(&error) == Fault::Failed => {
                    let refusal = refusal(&error);
                    if *name == STRICTNESS && refusal == Refusal::Passing {
                        return Err(refused(error));
                    }
                    self.access.refusals.note(&self.endpoint, name, refusal, &describe(&error));
                }
                result => result.map_err(refused)?,
            }
        }
        Ok(())
    }
}

/// The setting without which a server may cut values that do not fit.
const STRICTNESS: &str = "sql_mode";

/// Checks that a server is strict that cannot be told to be.
async fn demand_strictness(conn: &mut Conn) -> Result<(), Error> {
    let mode: Option<Row> = conn.query_first("SELECT @@sql_mode").await.map_err(refused)?;
    let mode = mode.and_then(|row| from_row_opt::<Option<Vec<u8>>>(row).ok()).flatten().unwrap_or_default();
    match String::from_utf8_lossy(&mode).split(',').any(|mode| mode.starts_with("STRICT_")) {
        true => Ok(()),
        false => Err(Error::Connect("it refuses sql_mode and is not strict, so it would cut values".into())),
    }
}

/// Makes each statement outside of a transaction one of its own.
const COMMIT_EACH: &str = "SET autocommit = 1";

/// The settings of a connection: values that do not fit are errors, and the time for which the
/// server waits for a lock is limited; a shorter limit of the server is kept. (MariaDB's
/// `max_statement_time` would do more, but it crashes MariaDB 10.11 if the disk is full.)
fn settings(response: Duration) -> [(&'static str, String); 3] {
    let seconds = response.as_secs_f64().ceil().max(1.0);
    let at_most = |name: &str| format!("LEAST(@@{name}, {seconds})");
    [
        (STRICTNESS, "CONCAT_WS(',', NULLIF(@@sql_mode, ''), 'STRICT_ALL_TABLES')".to_owned()),
        ("lock_wait_timeout", at_most("lock_wait_timeout")),
        ("innodb_lock_wait_timeout", at_most("innodb_lock_wait_timeout")),
    ]
}

/// Whether a server takes writes: it is not read-only, and a node of Galera is ready. Variables
/// that a server does not know are not among the rows, or have no value.
async fn takes_writes(conn: &mut Conn) -> Result<bool, Error> {
    const READ_ONLY: &str = "SHOW GLOBAL VARIABLES WHERE Variable_name IN \
                             ('read_only', 'super_read_only', 'innodb_read_only', 'wsrep_on')";
    const READY: &str = "SHOW GLOBAL STATUS LIKE 'wsrep_ready'";
    let variables: Vec<Row> = conn.query(READ_ONLY).await.map_err(refused)?;
    let variables = variables.into_iter().map(variable).collect::<Result<Vec<_>, _>>()?;
    let (galera, read_only): (Vec<_>, Vec<_>) = variables.iter().partition(|variable| variable.name == b"wsrep_on");
    if read_only.iter().any(|variable| variable.is_on()) {
        return Ok(false);
    }
    if galera.iter().any(|variable| variable.is_on()) {
        let ready: Option<Row> = conn.query_first(READY).await.map_err(refused)?;
        let ready = ready.map(variable).transpose()?;
        return Ok(ready.is_none_or(|ready| ready.value.is_none() || ready.is_on()));
    }
    Ok(true)
}

/// What a server says of one of its variables.
struct Variable {
    name: Vec<u8>,
    value: Option<Vec<u8>>,
}

impl Variable {
    fn is_on(&self) -> bool {
        self.value.as_deref().is_some_and(|value| !matches!(value, b"OFF" | b"0" | b""))
    }
}

fn variable(row: Row) -> Result<Variable, Error> {
    let (name, value) = from_row_opt(row).map_err(|_| Error::Connect("its variables have unexpected types".into()))?;
    Ok(Variable { name, value })
}

/// The address for the driver, or `None` for one that only its text tells whole: the interface of a
/// link-local address.
fn alone(address: SocketAddr) -> Option<Vec<IpAddr>> {
    let has_interface = matches!(address, SocketAddr::V6(address) if address.scope_id() != 0);
    (!has_interface).then(|| vec![address.ip()])
}

fn refused(error: mysql_async::Error) -> Error {
    const ACCESS_DENIED: [u16; 2] = [1045, 1698];
    match &error {
        mysql_async::Error::Server(server) if ACCESS_DENIED.contains(&server.code) => Error::SignIn(cause(error)),
        _ => Error::Connect(cause(error)),
    }
}

impl Access {
    pub fn new(options: ServerOptions) -> Arc<Self> {
        let hosts = Hosts::new(options.addresses.clone(), options.timeouts.connect);
        Arc::new(Self { options, hosts, refusals: Refusals::default(), driver: Mutex::default() })
    }

    /// Returns the settings of the driver for TCP, without credentials and an address.
    ///
    /// # Errors
    ///
    /// The system has no authorities to verify certificates with, or a file cannot be used.
    fn driver(&self) -> Result<Opts, Error> {
        let tls = &self.options.tls;
        let config = tls.as_ref().map(Tls::config).transpose().map_err(network::connect_error)?;
        let mut driver = self.driver.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some((made_for, opts)) = &*driver
            && is_same(made_for.as_ref(), config.as_ref())
        {
            return Ok(opts.clone());
        }
        let opts = Opts::from(match tls {
            // Where nobody but the server can read it, the password may be sent as it is. Servers
            // that check it elsewhere, as clouds check their tokens, ask for that.
            Some(tls) => self.options.driver().enable_cleartext_plugin(tls.verify).ssl_opts(ssl(tls)?),
            None => self.options.driver(),
        });
        *driver = Some((config, opts.clone()));
        Ok(opts)
    }
}

fn is_same(made_for: Option<&Arc<ClientConfig>>, config: Option<&Arc<ClientConfig>>) -> bool {
    match (made_for, config) {
        (Some(made_for), Some(config)) => Arc::ptr_eq(made_for, config),
        (made_for, config) => made_for.is_none() && config.is_none(),
    }
}

impl ServerOptions {
    /// The settings of the driver, without credentials, an address and TLS.
    fn driver(&self) -> OptsBuilder {
        OptsBuilder::default()
            // Use TCP even for localhost.
            .prefer_socket(false)
            .db_name(self.database.clone())
            .max_allowed_packet(self.max_packet_size)
            .stmt_cache_size(64)
            // A row whose update changes nothing counts, too.
            .client_found_rows(true)
            .tcp_keepalive(Some(TCP_KEEPALIVE))
    }
}

fn ssl(tls: &Tls) -> Result<SslOpts, Error> {
    let mut options = SslOpts::default();
    if let Some(name) = &tls.server_name {
        options = options.with_danger_tls_hostname_override(Some(name.clone()));
    }
    if let Some(identity) = &tls.identity {
        let (certificate, key) = (path(&identity.certificate), path(&identity.key));
        options = options.with_client_identity(Some(ClientIdentity::new(certificate.into(), key.into())));
    }
    if !tls.verify {
        return Ok(options.with_danger_accept_invalid_certs(true));
    }
    let own = tls.authorities.as_deref().map(|file| path(file).into());
    // One that the driver cannot use would make it use none.
    let usable =
        |root: &&rustls::pki_types::CertificateDer<'static>| RootCertStore::empty().add((*root).clone()).is_ok();
    let system = match network::system_roots() {
        Ok(roots) => roots.iter().filter(usable).map(|root| root.to_vec().into()).collect(),
        Err(_) if own.is_some() => Vec::new(),
        Err(error) => return Err(network::connect_error(error)),
    };
    Ok(options.with_disable_built_in_roots(true).with_root_certs(own.into_iter().chain(system).collect()))
}

fn path(path: &str) -> std::path::PathBuf {
    path.into()
}
