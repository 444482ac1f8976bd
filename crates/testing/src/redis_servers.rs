//! Redis servers of their own: one, a Sentinel group, a Cluster.

use std::fs;
use std::process::Command;

use redis::{Client, Connection};

use crate::server::{Process, Server, free_port, wait_for};

pub struct Redis {
    pub process: Process,
    pub port: u16,
    _directory: tempfile::TempDir,
}

impl Redis {
    pub fn start(arguments: &[&str]) -> Self {
        Self::start_on(free_port(), "redis-server", arguments, None)
    }

    fn start_on(port: u16, program: &'static str, arguments: &[&str], configuration: Option<String>) -> Self {
        let directory = tempfile::tempdir().unwrap();
        let mut all = Vec::new();
        if let Some(configuration) = configuration {
            let path = directory.path().join("redis.conf");
            fs::write(&path, configuration).unwrap();
            all.push(path.display().to_string());
        }
        all.extend(["--port".to_owned(), port.to_string(), "--dir".to_owned(), directory.path().display().to_string()]);
        if program == "redis-server" {
            all.extend(["--save", "", "--appendonly", "no", "--repl-diskless-sync-delay", "0"].map(str::to_owned));
        }
        all.extend(arguments.iter().map(|argument| (*argument).to_owned()));
        let mut redis = Self { process: Process::start(program, all), port, _directory: directory };
        redis.wait();
        redis
    }

    fn wait(&mut self) {
        let port = self.port;
        self.process.wait_for("a Redis server", || std::net::TcpStream::connect(("127.0.0.1", port)).is_ok());
    }

    pub fn connect(&self) -> Connection {
        Client::open(format!("redis://127.0.0.1:{}/", self.port)).unwrap().get_connection().unwrap()
    }

    pub fn ask<T: redis::FromRedisValue>(&self, command: &str) -> T {
        let mut words = command.split(' ');
        let mut cmd = redis::cmd(words.next().unwrap());
        words.for_each(|word| {
            cmd.arg(word);
        });
        cmd.query(&mut self.connect()).unwrap_or_else(|error| panic!("{command}: {error}"))
    }

    /// nginx' connections: those that are not of this process.
    pub fn clients(&self) -> usize {
        let list: String = self.ask("CLIENT LIST");
        list.lines().filter(|line| line.contains("lib-name=redis-rs") || !line.contains("cmd=client")).count()
    }
}

/// A master, two replicas, three sentinels that watch them.
pub struct Group {
    pub servers: Vec<Redis>,
    pub sentinels: Vec<Redis>,
}

impl Group {
    pub fn start() -> Self {
        let master = Redis::start(&["--repl-timeout", "5"]);
        let port = master.port.to_string();
        let mut servers = vec![master];
        for _ in 0..2 {
            servers.push(Redis::start(&["--replicaof", "127.0.0.1", &port, "--repl-timeout", "5"]));
        }
        let replicated = |redis: &Redis| redis.ask::<String>("INFO replication").contains("master_link_status:up");
        wait_for("the replicas", || servers[1..].iter().all(replicated));
        let configuration = format!(
            "sentinel monitor sessions 127.0.0.1 {port} 2\nsentinel down-after-milliseconds sessions 1000\n\
             sentinel failover-timeout sessions 5000\n"
        );
        let sentinels: Vec<Redis> =
            (0..3).map(|_| Redis::start_on(free_port(), "redis-sentinel", &[], Some(configuration.clone()))).collect();
        let knows = |sentinel: &Redis| {
            let others: Vec<redis::Value> = sentinel.ask("SENTINEL sentinels sessions");
            let replicas: Vec<redis::Value> = sentinel.ask("SENTINEL replicas sessions");
            others.len() == 2 && replicas.len() == 2
        };
        wait_for("the sentinels", || sentinels.iter().all(knows));
        Self { servers, sentinels }
    }

    /// The port of the server that the sentinels call the master.
    pub fn master(&self) -> u16 {
        let (_, port): (String, String) = self.sentinels[0].ask("SENTINEL get-master-addr-by-name sessions");
        port.parse().unwrap()
    }

    pub fn sentinel_ports(&self) -> String {
        ports(&self.sentinels)
    }
}

/// Three masters, and a replica each.
pub struct Cluster(pub Vec<Redis>);

impl Cluster {
    pub fn start() -> Self {
        let nodes: Vec<Redis> =
            (0..6).map(|_| Redis::start(&["--cluster-enabled", "yes", "--cluster-node-timeout", "1000"])).collect();
        let addresses: Vec<String> = nodes.iter().map(|node| format!("127.0.0.1:{}", node.port)).collect();
        let output = Command::new("redis-cli")
            .args(["--cluster", "create"])
            .args(&addresses)
            .args(["--cluster-replicas", "1", "--cluster-yes"])
            .output()
            .unwrap();
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stdout));
        let cluster = Self(nodes);
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

    pub fn ports(&self) -> String {
        ports(&self.0)
    }

    /// The nodes that hold slots now, but for one that does not answer.
    pub fn masters(&self, silent: Option<usize>) -> Vec<usize> {
        let is_master = |at: &usize| self.0[*at].ask::<String>("INFO replication").contains("role:master");
        (0..self.0.len()).filter(|at| Some(*at) != silent).filter(is_master).collect()
    }
}

fn ports(servers: &[Redis]) -> String {
    servers.iter().map(|server| server.port.to_string()).collect::<Vec<_>>().join(",")
}

impl Server for Redis {
    fn port(&self) -> u16 {
        self.port
    }

    fn process(&mut self) -> &mut Process {
        &mut self.process
    }

    fn start_again(&mut self) {
        self.process.start_again();
        self.wait();
    }
}
