//! What a Redis storage is configured with.

use std::time::Duration;

use redis::{ConnectionAddr, IntoConnectionInfo as _, ProtocolVersion, RedisConnectionInfo};

use crate::storage::{Error, Naming};

/// A server's address.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Node {
    pub host: String,
    pub port: u16,
}

/// Which servers, and how they are found.
#[derive(Clone, PartialEq, Eq, Hash)]
pub enum Target {
    Single(Address),
    Sentinel { master: String, replica: bool, sentinels: Vec<Node>, username: Option<String>, password: Option<String> },
    Cluster { nodes: Vec<Node>, max_redirections: u32 },
}

#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum Address {
    Tcp(Node),
    Unix(String),
}

/// It holds passwords, and so has no `Debug`.
#[derive(Clone, PartialEq, Eq, Hash)]
pub struct Options {
    pub target: Target,
    pub naming: Naming,
    pub username: Option<String>,
    pub password: Option<String>,
    pub database: i64,
    pub tls: Option<Tls>,
    pub connect_timeout: Duration,
    /// From sending a command to its answer.
    pub response_timeout: Duration,
    pub keepalive_timeout: Duration,
    /// Storages with different names share no connection.
    pub pool: Option<String>,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Tls {
    /// Whether the certificate must be good, and the server's.
    pub verify: bool,
    /// The name that the certificate must bear, where it is not the host's.
    pub server_name: Option<String>,
}

impl Options {
    /// How long an operation may take, connecting included.
    pub fn limit(&self) -> Duration {
        let steps = if matches!(self.target, Target::Cluster { .. }) { super::cluster::CONNECT_STEPS } else { 1 };
        self.connect_timeout * steps + self.response_timeout + Duration::from_millis(100)
    }

    pub(super) fn address(&self, node: &Node) -> ConnectionAddr {
        match &self.tls {
            None => ConnectionAddr::Tcp(node.host.clone(), node.port),
            Some(tls) => ConnectionAddr::TcpTls {
                host: tls.server_name.clone().unwrap_or_else(|| node.host.clone()),
                port: node.port,
                insecure: !tls.verify,
                tls_params: None,
            },
        }
    }

    pub(super) fn client(&self, address: &Address) -> Result<redis::Client, Error> {
        let address = match address {
            Address::Tcp(node) => self.address(node),
            Address::Unix(path) => ConnectionAddr::Unix(path.into()),
        };
        let info = address.into_connection_info()?.set_redis_settings(self.credentials());
        Ok(redis::Client::open(info)?)
    }

    fn credentials(&self) -> RedisConnectionInfo {
        credentials(&self.username, &self.password).set_db(self.database)
    }
}

pub(super) fn credentials(username: &Option<String>, password: &Option<String>) -> RedisConnectionInfo {
    let mut info = RedisConnectionInfo::default().set_protocol(ProtocolVersion::RESP2);
    if let Some(username) = username {
        info = info.set_username(username);
    }
    if let Some(password) = password {
        info = info.set_password(password);
    }
    info
}

/// Resolves every name to one host: to reach a server by another name than its certificate's.
pub(super) struct FixedHost(pub String);

impl redis::io::AsyncDNSResolver for FixedHost {
    fn resolve<'a, 'b: 'a>(
        &'a self,
        _: &'b str,
        port: u16,
    ) -> redis::RedisFuture<'a, Box<dyn Iterator<Item = std::net::SocketAddr> + Send + 'a>> {
        Box::pin(async move {
            let addresses: Vec<_> = tokio::net::lookup_host((self.0.as_str(), port)).await?.collect();
            Ok(Box::new(addresses.into_iter()) as Box<dyn Iterator<Item = _> + Send>)
        })
    }
}
