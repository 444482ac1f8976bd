//! The options of the Redis storage.

use resty_session_core::settings::{Error, Names, Reader, Section};

use super::access::Access;
use super::scripts::Scripts;
use crate::Naming;
use crate::connections::Timeouts;
use crate::credentials::{Credentials, Login};
use crate::network::{self, Address, Node, Tls};
use crate::options::{LOGIN, TIMEOUTS};

const SENTINEL: &[&str] = &["sentinels", "master", "role", "sentinel_username", "sentinel_password"];
const CLUSTER: &[&str] = &["nodes", "max_redirections"];
const OPERATIONS: &[&str] = &["scripts", "read_from", "replicas"];
const UNNEEDED_NUMBERS: &[&str] = &["pool_size", "backlog", "max_connection_attempts", "max_connection_timeout"];
const UNNEEDED_TEXTS: &[&str] = &["name", "lock_zone", "lock_prefix"];
const UNNEEDED_SWITCH: &str = "force_auth";

/// The servers, how to connect to them, and what to use of them. It has no `Debug`, because it
/// holds passwords.
#[derive(Clone, PartialEq, Eq, Hash)]
pub struct RedisOptions {
    /// Which servers.
    pub target: Target,
    /// How to connect to them.
    pub access: Access,
    /// How records and metadata are named.
    pub naming: Naming,
    /// Which scripts the servers run.
    pub scripts: Scripts,
    /// Which server reads come from.
    pub read_from: ReadFrom,
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

/// Which server records are read from.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum ReadFrom {
    /// The one that is written to.
    Master,
    /// A replica, if it has the record. The addresses are those of a single server's replicas:
    /// Sentinels and Clusters name theirs.
    Replica(Vec<Node>),
}

/// The Sentinels, and which of the servers that they watch. It has no `Debug`, because it holds
/// passwords.
#[derive(Clone, PartialEq, Eq, Hash)]
pub struct Sentinels {
    /// The Sentinels.
    pub sentinels: Vec<Sentinel>,
    /// The name that the Sentinels have for the servers.
    pub master: String,
    /// Whether to use one of the replicas, not the master itself.
    pub replica: bool,
}

/// A Sentinel's address, and who signs in there.
#[derive(Clone, PartialEq, Eq, Hash)]
pub struct Sentinel {
    /// Where it listens.
    pub node: Node,
    /// The credentials to sign in with.
    pub login: Login,
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
        OPERATIONS,
        UNNEEDED_NUMBERS,
        UNNEEDED_TEXTS,
        &[UNNEEDED_SWITCH],
    ];

    fn read(reader: &Reader) -> Result<Self, Error> {
        reader.check_unneeded(UNNEEDED_NUMBERS, UNNEEDED_TEXTS)?;
        reader.switch(UNNEEDED_SWITCH)?;
        let target = Target::read(reader)?;
        Ok(Self {
            read_from: ReadFrom::read(reader, &target)?,
            target,
            access: Access::read(reader)?,
            naming: Naming::read(reader)?,
            scripts: Scripts::read(reader)?,
        })
    }
}

impl Access {
    fn read(reader: &Reader) -> Result<Self, Error> {
        let database = reader.whole("database")?.unwrap_or_default();
        Ok(Self {
            login: checked(Login::read(reader)?, reader, "username")?,
            database: i64::try_from(database).map_err(|_| reader.invalid("database", "too large"))?,
            tls: Tls::read(reader)?,
            timeouts: Timeouts::read(reader)?,
            pool: reader.text("pool")?,
        })
    }
}

/// `username` is the name of the username's option.
fn checked(login: Login, reader: &Reader, username: &str) -> Result<Login, Error> {
    match login {
        Login::Fixed(Credentials { username: Some(_), password: None }) => {
            Err(reader.invalid(username, "a username needs a password"))
        }
        login => Ok(login),
    }
}

impl Target {
    /// With `nodes` a Cluster, with `sentinels` what these name, else one server. The options of
    /// all three are checked. An empty list counts as absent if the servers are given in another
    /// way.
    fn read(reader: &Reader) -> Result<Self, Error> {
        const PORT: u16 = 6379;
        const SENTINEL_PORT: u16 = 26379;
        let address = Address::read(reader, PORT)?;
        let (sentinels, cluster) = (Sentinels::read(reader, SENTINEL_PORT)?, ClusterNodes::read(reader, PORT)?);
        let is_given = reader.text("host")?.is_some() || reader.text("socket")?.is_some();
        match (cluster, sentinels) {
            (Some(cluster), _) if !cluster.nodes.is_empty() => Ok(Self::Cluster(cluster)),
            (_, Some(sentinels)) if !sentinels.sentinels.is_empty() => Ok(Self::Sentinel(sentinels)),
            (Some(_), _) if !is_given => Err(reader.invalid("nodes", "it is empty")),
            (_, Some(_)) if !is_given => Err(reader.invalid("sentinels", "it is empty")),
            _ => Ok(Self::Single(address)),
        }
    }
}

impl ReadFrom {
    fn read(reader: &Reader, target: &Target) -> Result<Self, Error> {
        const PORT: u16 = 6379;
        let replicas = Node::read_all(reader, "replicas", PORT)?.unwrap_or_default();
        match reader.text("read_from")?.as_deref() {
            None | Some("master") => Ok(Self::Master),
            Some("replica") if replicas.is_empty() && matches!(target, Target::Single(_)) => {
                Err(reader.invalid("read_from", "the option replicas must name some"))
            }
            Some("replica") => Ok(Self::Replica(replicas)),
            Some(_) => Err(reader.invalid("read_from", "\"master\" or \"replica\" expected")),
        }
    }
}

impl Scripts {
    fn read(reader: &Reader) -> Result<Self, Error> {
        match reader.text("scripts")?.as_deref() {
            None | Some("all") => Ok(Self::All),
            Some("single-key") => Ok(Self::SingleKey),
            Some("none") => Ok(Self::None),
            Some(_) => Err(reader.invalid("scripts", "\"all\", \"single-key\" or \"none\" expected")),
        }
    }
}

impl Sentinels {
    fn read(reader: &Reader, default_port: u16) -> Result<Option<Self>, Error> {
        const NAMES: Names = &[Node::OPTIONS, &["username", "password"]];
        let replica = match reader.text("role")?.as_deref() {
            None | Some("master") => false,
            Some("slave" | "replica") => true,
            Some(_) => return Err(reader.invalid("role", "\"master\" or \"slave\" expected")),
        };
        let master = reader.text("master")?.unwrap_or_else(|| "mymaster".into());
        let read = |reader: &Reader, username, password| {
            checked(Login::read_named(reader, username, password)?, reader, username)
        };
        let shared = read(reader, "sentinel_username", "sentinel_password")?;
        let sentinels = Node::read_each(reader, ("sentinels", NAMES), default_port, |table, node| {
            let own = read(table, "username", "password")?;
            Ok(Sentinel { node, login: if own == Login::default() { shared.clone() } else { own } })
        })?;
        Ok(sentinels.map(|sentinels| Self { sentinels, master, replica }))
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

    fn login(username: Option<&str>, password: &str) -> Login {
        let password = Some(password.to_owned().into());
        Login::Fixed(Credentials { username: username.map(str::to_owned), password })
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
        let nodes: Vec<Node> = found.sentinels.into_iter().map(|sentinel| sentinel.node).collect();
        assert_eq!((nodes, found.replica), (vec![node("a", 26379), node("::1", 5)], true));
        assert_eq!(found.master, "mymaster");
        let both =
            json!({ "sentinels": sentinels, "nodes": [{ "host": "b:7" }, { "ip": "c" }], "max_redirections": 1e6 });
        let Target::Cluster(cluster) = options(both).target else { panic!() };
        assert_eq!(cluster.nodes, [node("b", 7), node("c", 6379)]);
        assert_eq!(cluster.max_redirections, 1000);
    }

    #[test]
    fn an_empty_list_is_absent_beside_other_servers() {
        let nodes = json!([{ "host": "b" }]);
        let target = |json: serde_json::Value| options(json).target;
        assert!(matches!(target(json!({ "sentinels": [], "nodes": nodes })), Target::Cluster(_)));
        assert!(matches!(target(json!({ "sentinels": nodes, "nodes": [] })), Target::Sentinel(_)));
        for list in ["nodes", "sentinels"] {
            assert!(matches!(target(json!({ list: [], "host": "a" })), Target::Single(Address::Tcp(_))));
            assert!(matches!(target(json!({ list: [], "socket": "/a" })), Target::Single(Address::Unix(_))));
            assert_eq!(problem::<RedisOptions>(json!({ list: [] })), format!("invalid redis {list} (it is empty)"));
        }
    }

    #[test]
    fn a_sentinel_may_have_a_login_of_its_own() {
        let sentinels = json!([{ "host": "a" }, { "host": "b", "username": "u", "password": "p" }]);
        let all = json!({ "sentinels": sentinels, "sentinel_password": "shared" });
        let Target::Sentinel(found) = options(all).target else { panic!() };
        let logins: Vec<Login> = found.sentinels.into_iter().map(|one| one.login).collect();
        assert!(logins == [login(None, "shared"), login(Some("u"), "p")]);
        for (json, option) in [
            (json!({ "sentinels": [{ "host": "a", "username": "u" }], "sentinel_password": "p" }), "username"),
            (json!({ "sentinel_username": "u" }), "sentinel_username"),
        ] {
            let expected = format!("invalid redis {option} (a username needs a password)");
            assert_eq!(problem::<RedisOptions>(json), expected);
        }
    }

    #[test]
    fn scripts_and_replicas_are_chosen() {
        let sentinels = json!([{ "host": "a" }]);
        assert!(options(json!({})).scripts == Scripts::All);
        assert!(options(json!({ "scripts": "single-key" })).scripts == Scripts::SingleKey);
        assert!(options(json!({ "scripts": "none" })).scripts == Scripts::None);
        let read_from = |json: serde_json::Value| options(json).read_from;
        assert_eq!(read_from(json!({ "replicas": [{ "host": "b" }] })), ReadFrom::Master);
        let replicas = json!({ "replicas": [{ "host": "b" }], "read_from": "replica" });
        assert_eq!(read_from(replicas), ReadFrom::Replica(vec![node("b", 6379)]));
        let named = json!({ "sentinels": sentinels, "read_from": "replica" });
        assert_eq!(read_from(named), ReadFrom::Replica(Vec::new()));
        for (json, problem_of) in [
            (json!({ "scripts": "few" }), "scripts (\"all\", \"single-key\" or \"none\" expected)"),
            (json!({ "read_from": "any" }), "read_from (\"master\" or \"replica\" expected)"),
            (json!({ "read_from": "replica" }), "read_from (the option replicas must name some)"),
        ] {
            assert_eq!(problem::<RedisOptions>(json), format!("invalid redis {problem_of}"));
        }
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
        assert!(access.login == login(Some("u"), "5"));
        assert_eq!(access.database, 3);
        let alone = problem::<RedisOptions>(json!({ "username": "u", "password": "" }));
        assert_eq!(alone, "invalid redis username (a username needs a password)");
        assert_eq!(problem::<RedisOptions>(json!({ "database": 1e300 })), "invalid redis database (too large)");
    }

    #[test]
    fn a_server_name_is_that_of_all_servers() {
        let name = |json: serde_json::Value| options(json).access.tls.and_then(|tls| tls.server_name);
        assert_eq!(name(json!({ "ssl": true, "server_name": "a" })).as_deref(), Some("a"));
        assert_eq!(name(json!({ "ssl": true, "server_name": "a", "nodes": [{ "host": "b" }] })).as_deref(), Some("a"));
        assert!(options(json!({ "ssl_verify": false })).access.tls.is_none());
        let tls = options(json!({ "ssl": true, "ssl_verify": false })).access.tls;
        assert_eq!(tls, Some(Tls { verify: false, server_name: None, authorities: None, identity: None }));
    }
}
