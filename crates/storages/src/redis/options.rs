//! The options of the Redis storage.

use resty_session_core::secret::Password;
use resty_session_core::settings::{Error, Names, Reader, Section};

use super::access::Access;
use crate::Naming;
use crate::connections::Timeouts;
use crate::network::{self, Address, Node, Tls};
use crate::options::{LOGIN, TIMEOUTS};

const SENTINEL: &[&str] = &["sentinels", "master", "role", "sentinel_username", "sentinel_password"];
const CLUSTER: &[&str] = &["nodes", "max_redirections"];
const UNNEEDED_NUMBERS: &[&str] = &["pool_size", "backlog", "max_connection_attempts", "max_connection_timeout"];
const UNNEEDED_TEXTS: &[&str] = &["name", "lock_zone", "lock_prefix"];
const UNNEEDED_SWITCH: &str = "force_auth";

/// The servers and how to connect to them. It has no `Debug`, because it holds passwords.
#[derive(Clone, PartialEq, Eq, Hash)]
pub struct RedisOptions {
    /// Which servers.
    pub target: Target,
    /// How to connect to them.
    pub access: Access,
}

/// Which servers, and how they are found.
#[derive(Clone, PartialEq, Eq, Hash)]
pub enum Target {
    /// One server.
    Single(Address),
    /// The server that Sentinels name.
    Sentinel(Sentinels),
    /// All servers of a Cluster.
    Cluster(ClusterNodes),
}

/// The Sentinels, and which of the servers that they watch. It has no `Debug`, because it holds a
/// password.
#[derive(Clone, PartialEq, Eq, Hash)]
pub struct Sentinels {
    /// Their addresses.
    pub nodes: Vec<Node>,
    /// The name that the Sentinels have for the servers.
    pub master: String,
    /// Whether to use one of the replicas, not the master itself.
    pub replica: bool,
    /// The user to sign in as at the Sentinels.
    pub username: Option<String>,
    /// The password that the user signs in with there.
    pub password: Option<Password>,
}

/// Some servers of a Cluster, which tell the others.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct ClusterNodes {
    /// Their addresses.
    pub nodes: Vec<Node>,
    /// How often a command may be sent to another server, because its keys have moved.
    pub max_redirections: u32,
}

impl Section for RedisOptions {
    const STORAGE: &'static str = "redis";
    const OPTIONS: Names = &[
        network::Target::OPTIONS,
        Tls::OPTIONS,
        TIMEOUTS,
        Naming::OPTIONS,
        LOGIN,
        SENTINEL,
        CLUSTER,
        UNNEEDED_NUMBERS,
        UNNEEDED_TEXTS,
        &[UNNEEDED_SWITCH],
    ];

    fn read(reader: &Reader) -> Result<Self, Error> {
        reader.check_unneeded(UNNEEDED_NUMBERS, UNNEEDED_TEXTS)?;
        reader.switch(UNNEEDED_SWITCH)?;
        let target = Target::read(reader)?;
        let mut access = Access::read(reader)?;
        if let (Some(tls), Target::Sentinel(_) | Target::Cluster(_)) = (&mut access.tls, &target) {
            // One name cannot be that of several servers: each certificate must bear its own
            // server's.
            tls.server_name = None;
        }
        Ok(Self { target, access })
    }
}

impl Access {
    fn read(reader: &Reader) -> Result<Self, Error> {
        let username = reader.text("username")?;
        let password = reader.password("password")?;
        if username.is_some() && password.is_none() {
            return Err(reader.invalid("username", "a username needs a password"));
        }
        let database = reader.whole("database")?.unwrap_or_default();
        Ok(Self {
            naming: Naming::read(reader)?,
            username,
            password,
            database: i64::try_from(database).map_err(|_| reader.invalid("database", "too large"))?,
            tls: Tls::read(reader)?,
            timeouts: Timeouts::read(reader)?,
            pool: reader.text("pool")?,
        })
    }
}

impl Target {
    /// With `nodes` a Cluster, with `sentinels` what these name, else one server. The options of
    /// all three are checked, but a Cluster's Sentinels are not looked at.
    fn read(reader: &Reader) -> Result<Self, Error> {
        const PORT: u16 = 6379;
        const SENTINEL_PORT: u16 = 26379;
        let address = Address::read(reader, PORT)?;
        let sentinels = Sentinels::read_without_nodes(reader)?;
        if let Some(nodes) = ClusterNodes::read(reader, PORT)? {
            return Ok(Self::Cluster(nodes));
        }
        Ok(match Node::read_all(reader, "sentinels", SENTINEL_PORT)? {
            Some(nodes) => Self::Sentinel(Sentinels { nodes, ..sentinels }),
            None => Self::Single(address),
        })
    }
}

impl Sentinels {
    fn read_without_nodes(reader: &Reader) -> Result<Self, Error> {
        let replica = match reader.text("role")?.as_deref() {
            None | Some("master") => false,
            Some("slave" | "replica") => true,
            Some(_) => return Err(reader.invalid("role", "\"master\" or \"slave\" expected")),
        };
        let master = reader.text("master")?.unwrap_or_else(|| "mymaster".into());
        let (username, password) = (reader.text("sentinel_username")?, reader.password("sentinel_password")?);
        Ok(Self { nodes: Vec::new(), master, replica, username, password })
    }
}

impl ClusterNodes {
    fn read(reader: &Reader, default_port: u16) -> Result<Option<Self>, Error> {
        const REDIRECTIONS: u32 = 16;
        const MOST: u64 = 1000;
        let redirections = reader.number("max_redirections")?;
        let max_redirections = redirections.map_or(REDIRECTIONS, |number| number.min(MOST) as u32);
        let nodes = Node::read_all(reader, "nodes", default_port)?;
        Ok(nodes.map(|nodes| Self { nodes, max_redirections }))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::options::tests::{problem, read};
    use serde_json::json;

    fn options(json: serde_json::Value) -> RedisOptions {
        read(json).unwrap_or_else(|problem| panic!("{problem}"))
    }

    fn node(host: &str, port: u16) -> Node {
        Node { host: host.into(), port }
    }

    #[test]
    fn a_target_is_one_server_that_of_sentinels_or_a_cluster() {
        let Target::Single(address) = options(json!({ "nodes": null, "sentinels": false })).target else { panic!() };
        assert_eq!(address, Address::Tcp(node("127.0.0.1", 6379)));
        let sentinels = json!([{ "host": "a" }, { "ip": "::1", "port": "5" }, null]);
        let Target::Sentinel(found) = options(json!({ "sentinels": sentinels, "role": "slave" })).target else {
            panic!()
        };
        assert_eq!((found.nodes, found.replica), (vec![node("a", 26379), node("::1", 5)], true));
        assert_eq!((found.master.as_str(), found.username), ("mymaster", None));
        let both =
            json!({ "sentinels": sentinels, "nodes": [{ "host": "b:7" }, { "ip": "c" }], "max_redirections": 1e6 });
        let Target::Cluster(_) = options(json!({ "sentinels": [], "nodes": [{ "host": "b" }] })).target else {
            panic!()
        };
        let Target::Cluster(cluster) = options(both).target else { panic!() };
        assert_eq!(cluster.nodes, [node("b", 7), node("c", 6379)]);
        assert_eq!(cluster.max_redirections, 1000);
    }

    #[test]
    fn options_of_targets_that_are_not_used_are_checked_too() {
        let nodes = json!([{ "host": "a" }]);
        for (json, problem_of) in [
            (json!({ "nodes": nodes, "role": "king" }), "role (\"master\" or \"slave\" expected)"),
            (json!({ "nodes": nodes, "host": "[" }), "host (a bracket is not closed)"),
            (json!({ "role": "king" }), "role (\"master\" or \"slave\" expected)"),
            (json!({ "nodes": ["localhost"] }), "nodes (each must be { host = …, port = … })"),
            (json!({ "nodes": [{ "port": 5 }] }), "nodes (a host is missing)"),
            (json!({ "nodes": [{ "host": "a", "port": 0 }] }), "port (at least 1)"),
            (json!({ "sentinels": [{ "host": "unix:/a" }] }), "sentinels (a Unix socket cannot be used here)"),
            (json!({ "sentinels": { "host": "a" } }), "sentinels (array expected, got table with named fields)"),
        ] {
            assert_eq!(problem::<RedisOptions>(json), format!("invalid redis {problem_of}"));
        }
    }

    #[test]
    fn an_address_is_a_socket_or_host_and_port() {
        for (json, address) in [
            (json!({ "socket": "unix:/run/r.sock", "host": "a" }), Address::Unix("/run/r.sock".into())),
            (json!({ "socket": "/run/r.sock" }), Address::Unix("/run/r.sock".into())),
            (json!({ "host": "a:1", "port": 2 }), Address::Tcp(node("a", 1))),
            (json!({ "host": "", "port": "2" }), Address::Tcp(node("127.0.0.1", 2))),
        ] {
            let Target::Single(found) = options(json).target else { panic!() };
            assert_eq!(found, address);
        }
        for (json, cause) in [
            (json!({ "port": 0 }), "at least 1"),
            (json!({ "port": 65536 }), "at most 65535"),
            (json!({ "port": 80.5 }), "whole number expected"),
        ] {
            assert_eq!(problem::<RedisOptions>(json), format!("invalid redis port ({cause})"));
        }
    }

    #[test]
    fn a_user_signs_in_with_a_password() {
        let access = options(json!({ "username": "u", "password": 5, "database": "3" })).access;
        assert_eq!((access.username.as_deref(), access.password.as_deref()), (Some("u"), Some("5")));
        assert_eq!(access.database, 3);
        let alone = problem::<RedisOptions>(json!({ "username": "u", "password": "" }));
        assert_eq!(alone, "invalid redis username (a username needs a password)");
        assert_eq!(problem::<RedisOptions>(json!({ "database": 1e300 })), "invalid redis database (too large)");
    }

    #[test]
    fn a_server_name_is_that_of_one_server() {
        let name = |json: serde_json::Value| options(json).access.tls.and_then(|tls| tls.server_name);
        assert_eq!(name(json!({ "ssl": true, "server_name": "a" })).as_deref(), Some("a"));
        assert_eq!(name(json!({ "ssl": true, "server_name": "a", "nodes": [{ "host": "b" }] })), None);
        assert!(options(json!({ "ssl_verify": false })).access.tls.is_none());
        let tls = options(json!({ "ssl": true, "ssl_verify": false })).access.tls;
        assert_eq!(tls, Some(Tls { verify: false, server_name: None, authorities: None, identity: None }));
    }
}
