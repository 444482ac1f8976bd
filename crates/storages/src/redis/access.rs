//! How connections to Redis servers are made.

use redis::{ConnectionAddr, IntoConnectionInfo as _, ProtocolVersion, RedisConnectionInfo};
use resty_session_core::secret::Password;

use super::errors::failed;
use crate::connections::Timeouts;
use crate::network::{Address, Node, Tls};
use crate::{Error, Naming};

/// The settings that all servers of a storage share: credentials, TLS, time limits and the naming
/// of records. It has no `Debug`, because it holds a password.
#[derive(Clone, PartialEq, Eq, Hash)]
pub struct Access {
    /// How records and metadata are named.
    pub naming: Naming,
    /// The user to sign in as.
    pub username: Option<String>,
    /// The password that the user signs in with.
    pub password: Option<Password>,
    /// The database's number; a Cluster has only 0.
    pub database: i64,
    /// The TLS settings, or `None` to connect without TLS.
    pub tls: Option<Tls>,
    /// How long the server may take.
    pub timeouts: Timeouts,
    /// Storages with different names share no connection.
    pub pool: Option<String>,
}

impl Access {
    /// How the driver calls the address of a server.
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

    /// A client of one server, which has not connected yet.
    pub(super) fn client(&self, address: &Address) -> Result<redis::Client, Error> {
        let address = match address {
            Address::Tcp(node) => self.address(node),
            Address::Unix(path) => ConnectionAddr::Unix(path.into()),
        };
        let settings = self.credentials().set_db(self.database);
        let info = address.into_connection_info().map_err(failed)?.set_redis_settings(settings);
        redis::Client::open(info).map_err(failed)
    }

    /// Returns the credentials, with database 0.
    pub(super) fn credentials(&self) -> RedisConnectionInfo {
        let mut info = RedisConnectionInfo::default().set_protocol(ProtocolVersion::RESP2);
        if let Some(username) = &self.username {
            info = info.set_username(username);
        }
        if let Some(password) = &self.password {
            info = info.set_password(&**password);
        }
        info
    }
}

/// Resolves every name to one host: to reach a server by another name than its certificate's.
pub(super) struct FixedHost(pub(super) String);

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
