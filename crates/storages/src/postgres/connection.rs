//! A connection, the statements that are prepared on it.

use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;

use tokio::sync::OnceCell;
use tokio::task::AbortHandle;
use tokio_postgres::config::SslMode;
use tokio_postgres::tls::MakeTlsConnect;
use tokio_postgres::{Client, Config, NoTls, Statement};
use tokio_postgres_rustls::MakeRustlsConnect;

use super::failures::refused;
use super::guard::Guarded;
use super::options::{PostgresOptions, Transport};
use super::statements::{KINDS, Kind, Statements};
use crate::link::Handle;
use crate::network::{self, Address, Plain, Tls};
use crate::{Cause, Error, Operation};

pub struct Connection {
    pub client: Client,
    prepared: [OnceCell<Statement>; KINDS],
    _driver: Driver,
}

impl Handle for Arc<Connection> {
    fn is_closed(&self) -> bool {
        self.client.is_closed()
    }
}

/// The task that drives a connection. It ends with the connection. By itself it would wait for all
/// replies that the server still owes.
struct Driver(AbortHandle);

impl Drop for Driver {
    fn drop(&mut self) {
        self.0.abort();
    }
}

impl Connection {
    /// Returns a statement. It is prepared when it is first needed, because the metadata's table
    /// may not exist if metadata is not stored.
    pub async fn statement(&self, kind: Kind, texts: &Statements) -> Result<Statement, tokio_postgres::Error> {
        let cell = &self.prepared[kind as usize];
        cell.get_or_try_init(|| self.client.prepare(texts.text(kind))).await.cloned()
    }
}

/// Connects and signs in.
pub fn connect(options: &PostgresOptions) -> Operation<'static, Connection> {
    let options = options.clone();
    Box::pin(async move {
        let stream = network::connect_plain(&options.address).await?;
        let (client, driver) = sign_in(&options, stream)?.await.map_err(refused)?;
        client.batch_execute(&limit_statements(&options)).await.map_err(refused)?;
        Ok(Connection { client, prepared: std::array::from_fn(|_| OnceCell::new()), _driver: driver })
    })
}

type SignIn = Pin<Box<dyn Future<Output = Result<(Client, Driver), tokio_postgres::Error>> + Send>>;

fn sign_in(options: &PostgresOptions, stream: Plain) -> Result<SignIn, Error> {
    let mut config = Config::new();
    config.user(&options.username).application_name(options.application.as_deref().unwrap_or("resty-session"));
    if let Some(password) = &options.password {
        config.password(&**password);
    }
    if let Some(database) = &options.database {
        config.dbname(database);
    }
    let (mode, tls, host, stream) = match (&options.transport, &options.address) {
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

type Stream = Guarded<Plain>;
type Connector = <MakeRustlsConnect as MakeTlsConnect<Stream>>::TlsConnect;

fn connector(tls: &Tls, host: &str) -> Result<Connector, Error> {
    let config = tls.config().map_err(|error| Error::Connect(Cause::new(error.to_string(), error)))?;
    let mut make = MakeRustlsConnect::new((*config).clone());
    MakeTlsConnect::<Stream>::make_tls_connect(&mut make, tls.name(host))
        .map_err(|error| Error::Connect(Cause::new(error.to_string(), error)))
}

async fn start<T>(config: Config, stream: Stream, tls: T) -> Result<(Client, Driver), tokio_postgres::Error>
where
    T: tokio_postgres::tls::TlsConnect<Stream>,
    T::Stream: Send + 'static,
{
    let (client, connection) = config.connect_raw(stream, tls).await?;
    let driver = Driver(tokio::spawn(connection).abort_handle());
    Ok((client, driver))
}

/// Makes the server end statements that take longer than the time limit, because one that waits for
/// a lock would hold its connection. If the server has a shorter limit, that one is kept.
fn limit_statements(options: &PostgresOptions) -> String {
    let limit = options.timeouts.response.as_millis().max(1);
    format!(
        "SELECT set_config('statement_timeout', '{limit}', false) FROM pg_settings \
         WHERE name = 'statement_timeout' AND (setting::int = 0 OR setting::int > {limit})"
    )
}
