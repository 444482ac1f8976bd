//! What a Redis storage is configured with.

use redis::{ConnectionAddr, IntoConnectionInfo as _, ProtocolVersion, RedisConnectionInfo};

use super::errors::failed;
use crate::network::{Address, Node, Timeouts, Tls};
use crate::{Error, Naming};
use resty_session_core::secret::Password;

/// Which servers, and how they are found.
#[derive(Clone, PartialEq, Eq, Hash)]
pub enum Target {
    Single(Address),
    Sentinel(Sentinels),
    Cluster { nodes: Vec<Node>, max_redirections: u32 },
}

/// The Sentinels, and which of the servers that they watch.
#[derive(Clone, PartialEq, Eq, Hash)]
pub struct Sentinels {
    pub nodes: Vec<Node>,
    pub master: String,
    /// One of its replicas is asked for, not the master itself.
    pub replica: bool,
    pub username: Option<String>,
    pub password: Option<Password>,
}

/// It holds passwords, and so has no `Debug`.
#[derive(Clone, PartialEq, Eq, Hash)]
pub struct Options {
    pub target: Target,
    pub naming: Naming,
    pub username: Option<String>,
    pub password: Option<Password>,
    pub database: i64,
    pub tls: Option<Tls>,
    pub timeouts: Timeouts,
    /// Storages with different names share no connection.
    pub pool: Option<String>,
}

impl Options {
    pub(super) fn address(&self, node: &Node) -> ConnectionAddr {
        match &self.tls {
            None => ConnectionAddr::Tcp(node.host.clone(), node.port),
            Some(tls) => ConnectionAddr::TcpTls {
                host: tls.name(&node.host).to_owned(),
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
        let info = address.into_connection_info().map_err(failed)?.set_redis_settings(self.credentials());
        redis::Client::open(info).map_err(failed)
    }

    fn credentials(&self) -> RedisConnectionInfo {
        credentials(&self.username, &self.password).set_db(self.database)
    }
}

pub(super) fn credentials(username: &Option<String>, password: &Option<Password>) -> RedisConnectionInfo {
    let mut info = RedisConnectionInfo::default().set_protocol(ProtocolVersion::RESP2);
    if let Some(username) = username {
        info = info.set_username(username);
    }
    if let Some(password) = password {
        info = info.set_password(&**password);
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
