//! Redis servers of their own: one, a Sentinel group, a Cluster.

use std::fs;
use std::path::PathBuf;
use std::thread::sleep;
use std::time::Duration;

use nix::sys::signal::Signal;
use redis::{Client, Connection};

use crate::certificates::ServerTls;
use crate::proxy::Proxy;
use crate::server::{Process, Server, free_port, wait_for};

/// How a server is started.
#[derive(Clone, Default)]
pub struct Settings {
    /// With which it also speaks TLS, on a port of its own, and with which it speaks to others.
    pub tls: Option<ServerTls>,
    /// A user and password without which it does nothing.
    pub login: Option<(String, String)>,
}

const PLAIN: &str =
    "--user plain on >secret ~* -@all +get +set +unlink +ttl +expire +zadd +zrem +zremrangebyscore +zrangebyscore";

pub struct Redis {
    pub process: Process,
    /// Where it speaks without TLS.
    pub port: u16,
    /// Where it speaks TLS, if it does.
    pub tls_port: Option<u16>,
    login: Option<(String, String)>,
    _directory: tempfile::TempDir,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Kind {
    Server,
    Sentinel,
}

/// The server's program: Redis, or what the environment variable `REDIS_SERVER` names, such as
/// Valkey.
fn program() -> PathBuf {
    std::env::var_os("REDIS_SERVER").filter(|path| !path.is_empty()).map_or("redis-server".into(), PathBuf::from)
}

/// Nodes of a Cluster hide a replica until it has got something, which without this is a ping after
/// ten seconds.
const PINGS: &str = "repl-ping-replica-period 1";

impl Redis {
    pub fn start(arguments: &[&str]) -> Self {
        Self::start_with(&Settings::default(), arguments)
    }

    pub fn start_with(settings: &Settings, arguments: &[&str]) -> Self {
        Self::start_as(Kind::Server, settings, "", arguments)
    }

    /// One with a user `plain` (password `secret`), who has the rights that lua-resty-session
    /// needs, and so none to run scripts.
    pub fn start_for_plain_commands() -> Self {
        Self::start(&PLAIN.split(' ').collect::<Vec<_>>())
    }

    /// A Cluster of one server, which holds all slots.
    pub fn start_shard() -> Self {
        let server = Self::start(&["--cluster-enabled", "yes"]);
        server.ask::<()>("CLUSTER ADDSLOTSRANGE 0 16383");

        wait_for("the cluster", || server.ask::<String>("CLUSTER INFO").contains("cluster_state:ok"));
        server
    }

    fn start_as(kind: Kind, settings: &Settings, configuration: &str, arguments: &[&str]) -> Self {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("redis.conf");
        let port = free_port();
        let tls_port = settings.tls.is_some().then(free_port);
        let mut lines = vec![format!("port {port}"), format!("dir {}", directory.path().display())];
        lines.extend(settings.tls.iter().zip(tls_port).flat_map(tls_lines));
        lines.extend(settings.login.iter().flat_map(login_lines));
        if kind == Kind::Server {
            lines.extend(["save \"\"", "appendonly no", "repl-diskless-sync-delay 0", PINGS].map(str::to_owned));
            let signing_in = |(user, password)| format!("masteruser {user}\nmasterauth {password}");
            lines.extend(settings.login.clone().map(signing_in));
        }
        lines.push(configuration.to_owned());
        fs::write(&path, lines.join("\n")).unwrap();
        let path = path.display().to_string();
        let sentinel: &[&str] = if kind == Kind::Sentinel { &["--sentinel"] } else { &[] };
        let all = [&[path.as_str()], sentinel, arguments].concat().into_iter().map(Into::into).collect();
        let process = Process::start(program(), all);
        let mut redis = Self { process, port, tls_port, login: settings.login.clone(), _directory: directory };
        redis.wait();
        redis
    }

    fn wait(&mut self) {
        let port = self.port;
        self.process.wait_for("a Redis server", || std::net::TcpStream::connect(("127.0.0.1", port)).is_ok());
    }

    pub fn connect(&self) -> Connection {
        let login = self.login.as_ref().map(|(user, password)| format!("{user}:{password}@")).unwrap_or_default();
        Client::open(format!("redis://{login}127.0.0.1:{}/", self.port)).unwrap().get_connection().unwrap()
    }

    /// The port for clients: with TLS, if the server speaks it.
    pub fn port_for_clients(&self) -> u16 {
        self.tls_port.unwrap_or(self.port)
    }

    pub fn ask<T: redis::FromRedisValue>(&self, command: &str) -> T {
        self.query(command).unwrap_or_else(|error| panic!("{command}: {error}"))
    }

    /// Whether the server does what a command says.
    fn tries(&self, command: &str) -> bool {
        self.query::<()>(command).is_ok()
    }

    fn query<T: redis::FromRedisValue>(&self, command: &str) -> redis::RedisResult<T> {
        let mut words = command.split(' ');
        let mut cmd = redis::cmd(words.next().unwrap());
        words.for_each(|word| {
            cmd.arg(word);
        });
        cmd.query(&mut self.connect())
    }

    /// nginx' connections: those that are not of this process.
    pub fn clients(&self) -> usize {
        let list: String = self.ask("CLIENT LIST");
        list.lines().filter(|line| !line.contains("cmd=client")).count()
    }
}

fn tls_lines((tls, port): (&ServerTls, u16)) -> Vec<String> {
    let ServerTls { identity, ca, asks_clients } = tls;
    vec![
        format!("tls-port {port}"),
        format!("tls-cert-file {}", identity.certificate.display()),
        format!("tls-key-file {}", identity.key.display()),
        format!("tls-ca-cert-file {}", ca.display()),
        format!("tls-auth-clients {}", if *asks_clients { "yes" } else { "no" }),
        "tls-replication yes".to_owned(),
    ]
}

fn login_lines((user, password): &(String, String)) -> Vec<String> {
    vec![format!("user {user} on >{password} ~* &* +@all"), "user default off".to_owned()]
}

/// A master, two replicas, three sentinels that watch them.
pub struct Group {
    pub servers: Vec<Redis>,
    pub sentinels: Vec<Redis>,
}

impl Group {
    pub fn start() -> Self {
        Self::start_with(&Settings::default(), &Settings::default())
    }

    /// The sentinels are started with settings of their own. Only both speak TLS, or none.
    pub fn start_with(servers: &Settings, sentinels: &Settings) -> Self {
        let start =
            |replica_of: &str| Redis::start_as(Kind::Server, servers, &format!("repl-timeout 5\n{replica_of}"), &[]);
        let master = start("");
        let port = master.port_for_clients();
        let replica_of = format!("replicaof 127.0.0.1 {port}");
        let servers_of_group = vec![master, start(&replica_of), start(&replica_of)];
        let replicated = |redis: &Redis| redis.ask::<String>("INFO replication").contains("master_link_status:up");
        wait_for("the replicas", || servers_of_group[1..].iter().all(replicated));
        let configuration = watching(port, servers, sentinels);
        let sentinels: Vec<Redis> =
            (0..3).map(|_| Redis::start_as(Kind::Sentinel, sentinels, &configuration, &[])).collect();
        let knows = |sentinel: &Redis| {
            let others: Vec<redis::Value> = sentinel.ask("SENTINEL sentinels sessions");
            let replicas: Vec<redis::Value> = sentinel.ask("SENTINEL replicas sessions");
            others.len() == 2 && replicas.len() == 2
        };
        wait_for("the sentinels", || sentinels.iter().all(knows));
        Self { servers: servers_of_group, sentinels }
    }

    /// Makes a replica the master, and the old master its replica.
    pub fn fail_over(&self) {
        let (before, old) = (self.master(), self.master_server());
        // The sentinels refuse while they do not know a replica that is up to date.
        wait_for("a failover's start", || self.sentinels[0].tries("SENTINEL FAILOVER sessions"));
        wait_for("a failover", || self.master() != before);
        // The sentinels take ten seconds to tell the old master.
        old.ask::<()>(&format!("REPLICAOF 127.0.0.1 {}", self.master()));
    }

    /// The port of the server that the sentinels call the master.
    pub fn master(&self) -> u16 {
        let (_, port): (String, String) = self.sentinels[0].ask("SENTINEL get-master-addr-by-name sessions");
        port.parse().unwrap()
    }

    /// The server that the sentinels call the master.
    pub fn master_server(&self) -> &Redis {
        let port = self.master();
        self.servers.iter().find(|server| server.port_for_clients() == port).unwrap()
    }

    pub fn sentinel_ports(&self) -> String {
        ports(&self.sentinels)
    }
}

/// What a sentinel's configuration says of the group.
fn watching(port: u16, servers: &Settings, sentinels: &Settings) -> String {
    let mut lines = vec![
        format!("sentinel monitor sessions 127.0.0.1 {port} 2"),
        "sentinel down-after-milliseconds sessions 1000".to_owned(),
        "sentinel failover-timeout sessions 5000".to_owned(),
    ];
    if let Some((user, password)) = &servers.login {
        lines
            .extend([format!("sentinel auth-user sessions {user}"), format!("sentinel auth-pass sessions {password}")]);
    }
    if let Some((user, password)) = &sentinels.login {
        lines.extend([format!("sentinel sentinel-user {user}"), format!("sentinel sentinel-pass {password}")]);
    }
    lines.join("\n") + "\n"
}

/// Three masters, and a replica each.
pub struct Cluster(pub Vec<Redis>);

impl Cluster {
    pub fn start() -> Self {
        Self::start_with(&Settings::default())
    }

    /// With TLS, the nodes speak it to each other and to clients, who get the ports for it.
    pub fn start_with(settings: &Settings) -> Self {
        let tls: &[&str] = if settings.tls.is_some() { &["--tls-cluster", "yes"] } else { &[] };
        let arguments = [&["--cluster-enabled", "yes", "--cluster-node-timeout", "1000"], tls].concat();
        let nodes: Vec<Redis> = (0..6).map(|_| Redis::start_with(settings, &arguments)).collect();

        let cluster = Self(nodes);
        cluster.join();

        wait_for("the cluster", || {
            cluster.0.iter().all(|node| {
                let slots: Vec<Vec<redis::Value>> = node.ask("CLUSTER SLOTS");
                // From, to, the master, its replica.
                node.ask::<String>("CLUSTER INFO").contains("cluster_state:ok")
                    && slots.len() == 3
                    && slots.iter().all(|slot| slot.len() == 4)
            })
        });
        cluster
    }

    /// Does what `redis-cli --cluster create` does, in a fifth of the time: the slots are given out
    /// before the nodes meet.
    fn join(&self) {
        for (slots, master) in ["0 5460", "5461 10922", "10923 16383"].iter().zip(&self.0) {
            master.ask::<()>(&format!("CLUSTER ADDSLOTSRANGE {slots}"));
        }
        for (at, node) in self.0.iter().enumerate() {
            // Equal epochs would have to be settled first.
            node.ask::<()>(&format!("CLUSTER SET-CONFIG-EPOCH {}", at + 1));
            self.0[0].ask::<()>(&format!("CLUSTER MEET 127.0.0.1 {}", node.port_for_clients()));
        }
        let knows_all = |node: &Redis| node.ask::<String>("CLUSTER INFO").contains("cluster_known_nodes:6");
        wait_for("the nodes to meet", || self.0.iter().all(knows_all));

        for (master, replica) in self.0.iter().zip(&self.0[3..]) {
            let id: String = master.ask("CLUSTER MYID");
            wait_for("a master", || replica.tries(&format!("CLUSTER REPLICATE {id}")));
        }
    }

    pub fn ports(&self) -> String {
        ports(&self.0)
    }

    /// Puts a proxy before each node. Nodes name these to clients and to each other from then on.
    pub fn behind_proxies(&self) -> Vec<Proxy> {
        let proxies: Vec<Proxy> = self.0.iter().map(|node| Proxy::start(node.port)).collect();
        for (node, proxy) in self.0.iter().zip(&proxies) {
            // A replica notices soon that a proxy has forgotten its connection. A busy machine
            // causes no failover, which would lose the last writes. (For twice the node timeout, no
            // node votes for another failover of the same master.)
            let more = "repl-timeout 5 cluster-node-timeout 5000";
            node.ask::<()>(&format!("CONFIG SET cluster-announce-port {} {more}", proxy.port));
        }
        let names_all = |node: &Redis| {
            let nodes: String = node.ask("CLUSTER NODES");
            proxies.iter().all(|proxy| nodes.contains(&format!("127.0.0.1:{}@", proxy.port)))
        };
        wait_for("the nodes to name the proxies", || self.0.iter().all(names_all));
        proxies
    }

    /// The master of the first, second or third pair: of nodes `pair` and `pair + 3`.
    pub fn master_of(&self, pair: usize) -> usize {
        let mut masters = Vec::new();
        wait_for("one master of a pair", || {
            masters = [pair, pair + 3].into_iter().filter(|at| self.is_master(*at)).collect();
            masters.len() == 1
        });
        masters[0]
    }

    /// Lets the master of a pair and its replica change places, as an operator does before stopping
    /// a server. Nothing is lost.
    pub fn hand_over(&self, pair: usize) {
        let replica = (self.master_of(pair) + 3) % self.0.len();
        wait_for("a failover", || {
            // It gives up after five seconds.
            self.0[replica].tries("CLUSTER FAILOVER")
                && (0..600).any(|_| {
                    sleep(Duration::from_millis(10));
                    self.is_master(replica)
                })
        });
    }

    fn is_master(&self, node: usize) -> bool {
        self.0[node].ask::<String>("INFO replication").contains("role:master")
    }

    /// The nodes that hold slots now, but for one that does not answer.
    pub fn masters(&self, silent: Option<usize>) -> Vec<usize> {
        (0..self.0.len()).filter(|at| Some(*at) != silent && self.is_master(*at)).collect()
    }
}

fn ports(servers: &[Redis]) -> String {
    servers.iter().map(|server| server.port.to_string()).collect::<Vec<_>>().join(",")
}

impl Server for Redis {
    fn port(&self) -> u16 {
        self.port
    }

    fn signal(&self, signal: Signal) {
        self.process.signal(signal);
    }

    fn kill(&mut self) {
        self.process.kill();
    }

    fn start_again(&mut self) {
        self.process.start_again();
        self.wait();
    }
}
