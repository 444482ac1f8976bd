//! How connections to Postgres are made.

use std::pin::Pin;
use std::sync::{Arc, Mutex};

use tokio_postgres::config::SslMode;
use tokio_postgres::tls::{MakeTlsConnect, TlsConnect};
use tokio_postgres::{Client, Config, NoTls};
use tokio_postgres_rustls::MakeRustlsConnect;

use super::connection::{Connection, Driver};
use super::failures::{describe, refusal, refused};
use super::guard::{Guarded, GuardedTls};
use super::options::{ServerOptions, Transport};
use crate::connections::{Connector, Endpoint};
use crate::credentials::Credentials;
use crate::network::{self, Address, Plain, Tls};
use crate::sql::{Hosts, Refusal, Refusals, read_only};
use crate::{Error, Operation};

/// The servers, and what was found out about them.
pub struct Access {
    pub options: ServerOptions,
    pub hosts: Hosts,
    refusals: Refusals,
}

impl Access {
    pub fn new(options: ServerOptions) -> Arc<Self> {
        let hosts = Hosts::new(options.addresses.clone(), options.timeouts.connect);
        Arc::new(Self { options, hosts, refusals: Refusals::default() })
    }
}

/// Makes connections to the server that takes writes, or to another one.
#[derive(Clone)]
pub struct Connect {
    pub access: Arc<Access>,
    pub endpoint: Arc<Endpoint>,
    pub is_primary: bool,
}

impl Connector for Connect {
    type Connection = Arc<Connection>;

    fn connect(&self) -> Operation<'static, Arc<Connection>> {
        let me = self.clone();
        Box::pin(async move {
            let connect = |host, address| me.connect_to(host, address);
            match me.is_primary {
                true => me.access.hosts.find(connect).await,
                false => me.access.hosts.find_another(connect).await,
            }
        })
    }
}

impl Connect {
    async fn connect_to(&self, host: usize, address: &Address) -> Result<Arc<Connection>, Error> {
        let (client, driver) = self.sign_in(address).await?;
        let access = self.access.clone();
        let connection =
            Connection { client, host, access, is_primary: self.is_primary, prepared: Mutex::default(), driver };
        self.limit_statements(&connection.client).await?;
        if self.access.hosts.are_several() {
            self.check_role(&connection.client).await?;
        }
        Ok(Arc::new(connection))
    }

    async fn sign_in(&self, address: &Address) -> Result<(Client, Driver), Error> {
        self.access.options.login.sign_in(|credentials| self.sign_in_as(credentials, address)).await
    }

    /// Signs in. A server that does not take the connection's name is asked again without it.
    async fn sign_in_as(&self, credentials: Credentials, address: &Address) -> Result<(Client, Driver), Error> {
        const NAME: &str = "application_name";
        let refusals = &self.access.refusals;
        let attempt = async |name: Option<&str>| {
            let stream = network::connect_plain(address).await?;
            let config = configuration(&self.access.options, &credentials, name);
            sign_in(config, &self.access.options.transport, address, stream)?.await
        };
        let name = self.access.options.application.as_deref().unwrap_or("resty-session");
        let name = Some(name).filter(|_| !refusals.contain(NAME));
        match attempt(name).await {
            Err(SignInError::Server(error)) if name.is_some() && describe(&error).contains(NAME) => {
                refusals.note(&self.endpoint, NAME, Refusal::Lasting, &describe(&error));
                Ok(attempt(None).await?)
            }
            result => Ok(result?),
        }
    }

    /// Makes the server end statements that take longer than the time limit, because one that waits
    /// for a lock would hold its connection. If the server has a shorter limit, that one is kept. A
    /// connection that is still open after an error, as behind poolers, is used without.
    async fn limit_statements(&self, client: &Client) -> Result<(), Error> {
        const TIMEOUT: &str = "statement_timeout";
        if self.access.refusals.contain(TIMEOUT) {
            return Ok(());
        }
        let limit = self.access.options.timeouts.response.as_millis().max(1);
        let set = format!(
            "SELECT set_config('{TIMEOUT}', '{limit}', false) FROM pg_settings \
             WHERE name = '{TIMEOUT}' AND (setting::int = 0 OR setting::int > {limit})"
        );
        let Err(error) = client.batch_execute(&set).await else { return Ok(()) };
        match refusal(&error) {
            Some(refusal) if !client.is_closed() => {
                self.access.refusals.note(&self.endpoint, TIMEOUT, refusal, &describe(&error));
                Ok(())
            }
            _ => Err(refused(error)),
        }
    }

    /// Of several servers, one that is in recovery or read-only is not the one that takes writes.
    async fn check_role(&self, client: &Client) -> Result<(), Error> {
        let is_read_only = "SELECT pg_is_in_recovery() OR current_setting('transaction_read_only')::bool";
        let row = client.query_one(is_read_only, &[]).await.map_err(refused)?;
        match (self.is_primary, row.try_get(0).map_err(refused)?) {
            (true, true) => Err(read_only()),
            (false, false) => Err(Error::Connect("it is not a standby".into())),
            _ => Ok(()),
        }
    }
}

/// Why signing in failed.
enum SignInError {
    Server(tokio_postgres::Error),
    Other(Error),
}

impl From<Error> for SignInError {
    fn from(error: Error) -> Self {
        Self::Other(error)
    }
}

impl From<SignInError> for Error {
    fn from(error: SignInError) -> Self {
        match error {
            SignInError::Server(error) => refused(error),
            SignInError::Other(error) => error,
        }
    }
}

type SignIn = Pin<Box<dyn Future<Output = Result<(Client, Driver), SignInError>> + Send>>;
type Stream = Guarded<Plain>;

fn configuration(options: &ServerOptions, credentials: &Credentials, name: Option<&str>) -> Config {
    let mut config = Config::new();
    config.user(credentials.username.as_deref().unwrap_or_default());
    if let Some(name) = name {
        config.application_name(name);
    }
    if let Some(password) = &credentials.password {
        config.password(&**password);
    }
    if let Some(database) = &options.database {
        config.dbname(database);
    }
    config
}

fn sign_in(mut config: Config, transport: &Transport, address: &Address, stream: Plain) -> Result<SignIn, Error> {
    let (mode, tls, host, stream) = match (transport, address) {
        (_, Address::Unix(_)) => {
            config.ssl_mode(SslMode::Disable);
            return Ok(Box::pin(start(config, Guarded::private(stream), NoTls)));
        }
        (Transport::Plain, _) => {
            config.ssl_mode(SslMode::Disable);
            return Ok(Box::pin(start(config, Guarded::plain(stream), NoTls)));
        }
        (Transport::Preferred(tls), Address::Tcp(node)) => {
            (SslMode::Prefer, tls, &node.host, Guarded::tls_if_agreed(stream))
        }
        (Transport::Required(tls), Address::Tcp(node)) => (SslMode::Require, tls, &node.host, Guarded::private(stream)),
    };
    config.ssl_mode(mode);
    Ok(Box::pin(start(config, stream, connector(tls, host)?)))
}

type RustlsConnect = <MakeRustlsConnect as MakeTlsConnect<Stream>>::TlsConnect;

fn connector(tls: &Tls, host: &str) -> Result<GuardedTls<RustlsConnect>, Error> {
    let config = tls.config().map_err(network::connect_error)?;
    let mut make = MakeRustlsConnect::new((*config).clone());
    let connect =
        MakeTlsConnect::<Stream>::make_tls_connect(&mut make, tls.name(host)).map_err(network::connect_error)?;
    Ok(GuardedTls { connect, is_verified: tls.verify })
}

async fn start<T>(config: Config, stream: Stream, tls: T) -> Result<(Client, Driver), SignInError>
where
    T: TlsConnect<Stream>,
    T::Stream: Send + 'static,
{
    let (client, connection) = config.connect_raw(stream, tls).await.map_err(SignInError::Server)?;
    let driver = Driver(tokio::spawn(connection).abort_handle());
    Ok((client, driver))
}
