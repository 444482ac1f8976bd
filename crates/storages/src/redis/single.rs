//! One Redis server, and the storage on it.

use std::sync::Arc;

use redis::aio::MultiplexedConnection;
use redis::{AsyncConnectionConfig, Cmd, FromRedisValue, RedisResult, Value};

use super::commands;
use super::errors::{connect_error, failed, is_broken, is_lost, lost};
use super::gathering::{self, Gathered, Gathering};
use super::options::{Options, Target};
use crate::link::{Connection, Handle, Link};
use crate::network::Address;
use crate::{Error, Naming, Operation, Owner, Record, Sessions, Storage, Update};

/// One server, whichever it is at the time: the configured one, or the one that Sentinels name.
pub struct Server(Arc<Connected>);

/// The way to it.
struct Connected {
    link: Link<MultiplexedConnection>,
    gathering: Gathering,
    options: Options,
}

impl Server {
    pub fn new(options: Options) -> Self {
        Self(Arc::new(Connected { link: Link::new(&options.timeouts), gathering: Gathering::default(), options }))
    }

    fn naming(&self) -> &Naming {
        &self.0.options.naming
    }

    /// Runs a command together with those that are asked for at the same time.
    async fn run<T: FromRedisValue>(&self, command: Cmd) -> Result<T, Error> {
        let (is_first, answer) = self.0.gathering.add(command);
        if is_first {
            // It comes to this when those that run already have added theirs, and goes on if this one is given up.
            let connected = self.0.clone();
            tokio::spawn(async move { connected.send_gathered().await });
        }
        let value = answer.await.unwrap_or(Err(Error::Broken))?;
        redis::from_redis_value(value).map_err(|error| Error::Server(error.to_string()))
    }
}

impl Connected {
    async fn send_gathered(&self) {
        let gathered = self.gathering.take();
        match self.connection().await {
            Ok(connection) => {
                let pipelines = gathering::pipelines(gathered).map(|gathered| self.send(&connection, gathered));
                futures_util::future::join_all(pipelines).await;
            }
            Err(error) => gathering::refuse(gathered.into_iter().map(|(_, answer)| answer), &error),
        }
    }

    async fn send(&self, connection: &Connection<MultiplexedConnection>, gathered: Vec<Gathered>) {
        let (commands, answers): (Vec<_>, Vec<_>) = gathered.into_iter().unzip();
        let result = gathering::send(&mut connection.handle.clone(), commands).await;
        match self.checked(connection, result) {
            Ok(values) => {
                for (answer, value) in answers.into_iter().zip(values) {
                    // Who does not wait any more has gone.
                    let _ = answer.send(self.checked(connection, value));
                }
            }
            Err(error) => gathering::refuse(answers, &error),
        }
    }

    async fn connection(&self) -> Result<Connection<MultiplexedConnection>, Error> {
        self.link.get(|| self.connect()).await
    }

    /// A connection that failed, or answered too late, or leads to a server that cannot be written to, is given up: the
    /// next attempt connects anew.
    fn checked<T>(&self, connection: &Connection<MultiplexedConnection>, result: RedisResult<T>) -> Result<T, Error> {
        match result {
            Err(error) if is_lost(&error) => {
                self.link.give_up(connection);
                // A server that says what it is in would say so again; Sentinels may name another.
                let may_be_repeated = is_broken(&error) || matches!(self.options.target, Target::Sentinel(_));
                Err(if may_be_repeated { lost(&error) } else { failed(error) })
            }
            result => result.map_err(failed),
        }
    }

    async fn connect(&self) -> Result<MultiplexedConnection, Error> {
        let (client, host) = match &self.options.target {
            Target::Single(address @ Address::Tcp(node)) => (self.options.client(address)?, Some(node.host.clone())),
            Target::Single(address @ Address::Unix(_)) => (self.options.client(address)?, None),
            Target::Sentinel(sentinels) => (super::sentinel::client(sentinels, &self.options).await?, None),
            Target::Cluster { .. } => return Err(Error::Connect("a cluster is no single server".into())),
        };
        let config = self.config(host);
        client.get_multiplexed_async_connection_with_config(&config).await.map_err(|error| connect_error(&error))
    }

    /// `host` is where to connect to when the certificate bears another name.
    fn config(&self, host: Option<String>) -> AsyncConnectionConfig {
        let config = AsyncConnectionConfig::new()
            .set_connection_timeout(Some(self.options.timeouts.connect))
            .set_response_timeout(Some(self.options.timeouts.response));
        let server_name = self.options.tls.as_ref().and_then(|tls| tls.server_name.as_ref());
        match (server_name, host) {
            (Some(_), Some(host)) => config.set_dns_resolver(super::options::FixedHost(host)),
            _ => config,
        }
    }
}

/// The driver does not tell whether it has closed a connection: its next command fails at once, unsent, and is repeated.
impl Handle for MultiplexedConnection {
    fn is_closed(&self) -> bool {
        false
    }
}

impl Storage for Server {
    fn set<'a>(&'a self, record: &'a Record) -> Operation<'a, ()> {
        let set = self.run(commands::set(self.naming(), record));
        Box::pin(async move {
            match set.await? {
                Value::Int(0) => Err(Error::Gone),
                _ => Ok(()),
            }
        })
    }

    fn update<'a>(&'a self, update: &'a Update) -> Operation<'a, bool> {
        Box::pin(self.run(commands::update(self.naming(), update)))
    }

    fn get<'a>(&'a self, name: &'a str, key: &'a str, _: u64) -> Operation<'a, Option<Vec<u8>>> {
        Box::pin(self.run(commands::get(self.naming(), name, key)))
    }

    fn delete<'a>(&'a self, name: &'a str, key: &'a str, current_time: u64, owners: &'a [Owner]) -> Operation<'a, ()> {
        if owners.is_empty() {
            return Box::pin(self.run(commands::unlink(self.naming(), name, key)));
        }
        let delete = commands::delete(self.naming(), name, key, owners, current_time);
        Box::pin(async move {
            let connection = self.0.connection().await?;
            let result = delete.query_async(&mut connection.handle.clone()).await;
            self.0.checked(&connection, result)
        })
    }

    fn read_metadata<'a>(&'a self, name: &'a str, owner: &'a Owner, current_time: u64) -> Operation<'a, Sessions> {
        Box::pin(self.run(commands::sessions(self.naming(), name, owner, current_time)))
    }

    fn close_idle(&self) {
        self.0.link.close_idle();
    }
}
