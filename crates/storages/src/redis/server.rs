//! One Redis server, by a connection that all operations share.

use std::future::Future;
use std::sync::Arc;

use redis::{Cmd, Pipeline, Value, cmd};
use tokio::sync::oneshot;

use super::access::{Access, Connection};
use super::commands;
use super::errors::{connect_error, failed, failure, lost, refusal};
use super::gathering::{self, Gathered, Gathering, Responder, Waiting};
use super::options::Sentinels;
use super::scripts::{Learnt, Scripts};
use super::sentinel;
use super::storage::Commands;
use crate::connections::{Connector, Endpoint, Failure, Held, Identity, Link, Server};
use crate::journal::{Journal, Level};
use crate::network::Address;
use crate::{Error, Operation};

/// A server, and how to connect to it.
#[derive(Clone, PartialEq, Eq, Hash)]
pub(super) struct Place {
    pub location: Location,
    pub access: Access,
}

/// How to find a server.
#[derive(Clone, PartialEq, Eq, Hash)]
pub(super) enum Location {
    /// The one at this address.
    Configured(Address),
    /// The one that Sentinels name when a connection is made.
    Named(Sentinels),
    /// A node of a Cluster, which is written to.
    ClusterMaster(Address),
    /// A node of a Cluster, which is read from.
    ClusterReplica(Address),
}

/// One server.
pub(super) struct RedisServer(Arc<Shared>);

/// What requests that run at the same time share.
struct Shared {
    link: Arc<Link<Place>>,
    gathering: Gathering,
    /// Whether a server that refuses commands may have been replaced by another.
    is_renewed: bool,
    learnt: Learnt,
}

impl Identity for Place {
    type Server = RedisServer;

    fn server(&self, journal: Arc<dyn Journal>) -> Arc<RedisServer> {
        Arc::new(RedisServer::new(self.clone(), journal))
    }
}

impl Place {
    /// The server's name for operators.
    fn name(&self) -> String {
        match &self.location {
            Location::Configured(address) | Location::ClusterMaster(address) => address.to_string(),
            Location::ClusterReplica(address) => format!("{address} (replica)"),
            Location::Named(sentinels) if sentinels.replica => format!("{} (a replica, by Sentinel)", sentinels.master),
            Location::Named(sentinels) => format!("{} (by Sentinel)", sentinels.master),
        }
    }

    async fn connection(&self) -> Result<Connection, Error> {
        let mut connection = match &self.location {
            Location::Configured(address) | Location::ClusterMaster(address) | Location::ClusterReplica(address) => {
                self.access.connect(address).await?
            }
            Location::Named(sentinels) => sentinel::connect(sentinels, &self.access).await?,
        };
        if let Location::ClusterReplica(_) = &self.location {
            let reply = connection.send(&cmd("READONLY")).await.and_then(Value::extract_error);
            reply.map_err(connect_error)?;
        }
        Ok(connection)
    }
}

impl Connector for Place {
    type Connection = Connection;

    fn connect(&self) -> Operation<'static, Connection> {
        let place = self.clone();
        Box::pin(async move { place.connection().await })
    }
}

impl RedisServer {
    /// Nothing connects yet.
    pub(super) fn new(place: Place, journal: Arc<dyn Journal>) -> Self {
        let is_renewed = matches!(place.location, Location::Configured(_) | Location::Named(_));
        let endpoint = Endpoint::new("redis", place.name(), place.access.timeouts, journal);
        let (gathering, learnt) = (Gathering::default(), Learnt::default());
        Self(Arc::new(Shared { link: Link::new(endpoint, place), gathering, is_renewed, learnt }))
    }

    /// Reads the values of keys with one command. Returns `None` if there is only one key, or the
    /// server refuses that command.
    async fn values_together(&self, keys: &[String]) -> Result<Option<Vec<Value>>, Error> {
        let learnt = &self.0.learnt;
        if keys.len() < 2 || learnt.refuses_mget() {
            return Ok(None);
        }
        match self.one(commands::get_all(keys)).await? {
            Value::Array(values) if values.len() == keys.len() => Ok(Some(values)),
            Value::ServerError(error) if learnt.learn_from_mget(&error) => Ok(None),
            Value::ServerError(error) => Err(failed(error)),
            _ => Err(Error::Server("the server sent an invalid reply".into())),
        }
    }

    /// Sends commands in one pipeline with those that are requested at the same time.
    async fn gather<T>(&self, gathered: impl FnOnce(Responder<T>) -> Gathered) -> Result<T, Error> {
        let _in_flight = self.0.link.admit()?;
        let (reply, replies) = oneshot::channel();
        if self.0.gathering.add(gathered(reply)) {
            // In a task: it starts after the operations that run already have added their commands,
            // and is not dropped with this operation.
            let shared = self.0.clone();
            tokio::spawn(async move { shared.send_gathered().await });
        }
        replies.await.unwrap_or(Err(Error::Broken))
    }
}

impl Commands for RedisServer {
    fn one(&self, command: Cmd) -> impl Future<Output = Result<Value, Error>> + Send {
        self.gather(|reply| Gathered::One(command, reply))
    }

    fn all(&self, commands: Vec<Cmd>) -> impl Future<Output = Result<Vec<Value>, Error>> + Send {
        self.gather(|replies| Gathered::Several(commands, replies))
    }

    async fn values(&self, keys: Vec<String>) -> Vec<Result<Value, Error>> {
        let values = match self.values_together(&keys).await {
            Ok(None) => self.all(keys.iter().map(|key| commands::get(key)).collect()).await,
            Ok(Some(values)) => Ok(values),
            Err(error) => Err(error),
        };
        values.map_or_else(|error| vec![Err(error); keys.len()], |values| values.into_iter().map(Ok).collect())
    }

    fn scripts(&self) -> Scripts {
        self.0.learnt.scripts()
    }

    fn learn(&self, scripts: Scripts) {
        if let Some(news) = self.0.learnt.learn(scripts) {
            self.0.link.endpoint().tell(Level::Notice, format_args!("{news}"));
        }
    }
}

impl Server for RedisServer {
    fn endpoints(&self) -> Vec<Arc<Endpoint>> {
        vec![self.0.link.endpoint().clone()]
    }

    fn close_idle(&self) {
        self.0.link.close_idle();
    }
}

impl Shared {
    async fn send_gathered(&self) {
        let gathered = self.gathering.take();
        match self.link.get().await {
            Ok(held) => {
                let pipelines = gathering::pipelines(gathered);
                let sends = pipelines.map(|(pipeline, waiting)| self.send(&held, pipeline, waiting));
                futures_util::future::join_all(sends).await;
            }
            Err(error) => gathering::refuse(gathered, &error),
        }
    }

    async fn send(&self, held: &Held<Connection>, pipeline: Pipeline, waiting: Vec<Waiting>) {
        let mut connection = held.handle.clone();
        let sending = async move { gathering::send(&mut connection, &pipeline).await.map_err(failure) };
        match self.link.run_on(held, sending).await {
            Ok(values) => {
                let is_lost = self.note_refusal(held, &values);
                let check = |value: Value| match refusal(&value).filter(|_| is_lost) {
                    Some(error) => Err(lost(error.clone())),
                    None => Ok(value),
                };
                let mut values = values.into_iter();
                waiting.into_iter().for_each(|waiting| waiting.reply(&mut values, check));
            }
            Err(error) => waiting.into_iter().for_each(|waiting| waiting.fail(error.clone())),
        }
    }

    /// Renews the connection if the server is in a state in which it refuses commands. Returns
    /// whether the refused ones may be repeated.
    fn note_refusal(&self, held: &Held<Connection>, values: &[Value]) -> bool {
        let Some(refusal) = values.iter().find_map(refusal).filter(|_| self.is_renewed) else { return false };
        let result = self.link.conclude::<()>(held, Err(Failure::Refused(failed(refusal.clone()))));
        matches!(result, Err(Error::Lost(_)))
    }
}
