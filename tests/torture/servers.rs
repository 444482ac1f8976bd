//! The storages: their servers behind the proxy, and what can be done to them.

use std::thread::sleep;
use std::time::Duration;

use nix::sys::signal::Signal;
use resty_session_testing::dshm_server::Dshm;
use resty_session_testing::memcached_server::Memcached;
use resty_session_testing::proxy::{Accept, Behaviour, Cut, Flow, Proxy};
use resty_session_testing::redis_servers::{Cluster, Group, Redis};
use resty_session_testing::server::{Server, send};
use resty_session_testing::sql_servers::Database;

use super::plan::{Fault, Kind, Plan};
use super::site::Site;
use super::world::{Damage, World};

/// Kinds of faults that need nothing but nginx.
const OF_NGINX: [Kind; 2] = [Kind::KillWorker, Kind::Reload];
/// Kinds that one server needs to be there for.
const OF_SERVER: [Kind; 2] = [Kind::Stop, Kind::Restart];
const OF_PROXY: [Kind; 11] = [
    Kind::Delay,
    Kind::Stall,
    Kind::CutAfter,
    Kind::Flip,
    Kind::Refuse,
    Kind::Hang,
    Kind::AcceptAndCut,
    Kind::SlowAccept,
    Kind::Cut,
    Kind::CutHalf,
    Kind::Forget,
];
/// Time limits of the storages, in milliseconds: short, so that faults are soon noticed.
const LIMITS: &str = "connect_timeout = 500, send_timeout = 500, read_timeout = 500";
/// Where there are no faults, no limit may be reached.
const LIMITS_WITHOUT_FAULTS: &str = "connect_timeout = 10000, send_timeout = 10000, read_timeout = 10000";

/// A storage that is tortured.
pub struct Storage {
    /// Its name in the configuration.
    pub name: &'static str,
    /// The storage in which marks of revocation are: itself, if it can have them.
    pub marks: &'static str,
    /// The options of that in Lua, without time limits.
    options: String,
    /// The kinds of faults that it can have.
    pub possible: Vec<Kind>,
    /// Whether it notes all of a user's sessions.
    pub lists_all: bool,
    /// Whether a restart loses what it holds.
    loses: bool,
    server: Option<Box<dyn Server + Send>>,
    /// One before the server, or one before each node of the Cluster.
    proxies: Vec<Proxy>,
    group: Option<Group>,
    cluster: Option<Cluster>,
    _directory: Option<tempfile::TempDir>,
}

impl Storage {
    /// Starts the storage of this name.
    pub fn start(name: &str) -> Self {
        match name {
            // With `everysec`, what was acknowledged within the last two seconds may not be in the
            // file.
            "redis" => {
                let server = Redis::start(&["--appendonly", "yes", "--appendfsync", "always"]);
                Self::of_server("redis", server, "")
            }
            "memcached" => Self { loses: true, ..Self::of_server("memcached", Memcached::start(&[]), "") },
            "dshm" => Self { loses: true, lists_all: false, ..Self::of_server("dshm", Dshm::start(), "") },
            "postgres" => Self::of_server("postgres", Database::postgres(&[]), r#"database = "postgres""#),
            "mysql" => {
                let server = Database::mariadb(&["--innodb-flush-log-at-trx-commit=2"]);
                Self::of_server("mysql", server, r#"username = "root", database = "sessions""#)
            }
            "sentinel" => Self::of_group(),
            "file" => Self::of_files(),
            "cluster" => Self::of_cluster(),
            "cookie" => Self { name: "cookie", ..Self::start("redis") },
            // A worker that is killed while it writes leaves shared memory damaged: nginx unlocks
            // it, and no more.
            "shm" => Self { possible: vec![Kind::Reload], ..Self::empty("shm", r#"zone = "torture""#.to_owned()) },
            other => panic!(
                "STORAGE={other}: redis, sentinel, cluster, memcached, dshm, postgres, mysql, file, shm or cookie"
            ),
        }
    }

    fn empty(name: &'static str, options: String) -> Self {
        Self {
            name,
            marks: name,
            options,
            possible: OF_NGINX.to_vec(),
            lists_all: true,
            loses: false,
            server: None,
            proxies: Vec::new(),
            group: None,
            cluster: None,
            _directory: None,
        }
    }

    fn of_server(name: &'static str, server: impl Server + Send + 'static, more: &str) -> Self {
        let proxy = Proxy::start(server.port());
        let options = format!("port = {}, {more}", proxy.port);
        let possible = [&OF_PROXY[..], &OF_SERVER[..], &OF_NGINX[..]].concat();
        Self { possible, server: Some(Box::new(server)), proxies: vec![proxy], ..Self::empty(name, options) }
    }

    /// Sentinels tell where the master is, so there is no proxy before it.
    fn of_group() -> Self {
        let group = Group::start();
        let sentinels = addresses("host", &group.sentinel_ports());
        let options = format!(r#"master = "sessions", sentinels = {sentinels}"#);
        let possible = [&[Kind::FailOver, Kind::Stop][..], &OF_NGINX[..]].concat();
        Self { possible, group: Some(group), ..Self::empty("redis", options) }
    }

    /// Bits are not flipped, because the nodes replicate through the proxies too, and what a
    /// replica has would only be seen after a failover.
    fn of_cluster() -> Self {
        let cluster = Cluster::start();
        let proxies = cluster.behind_proxies();
        let ports: Vec<_> = proxies.iter().map(|proxy| proxy.port.to_string()).collect();
        let options = format!("nodes = {}", addresses("ip", &ports.join(",")));
        let of_proxy = OF_PROXY.into_iter().filter(|kind| *kind != Kind::Flip);
        let possible = of_proxy.chain([Kind::FailOver]).chain(OF_NGINX).collect();
        Self { possible, cluster: Some(cluster), proxies, ..Self::empty("redis", options) }
    }

    /// The options in Lua of the storage in which marks are, which is also the sessions', if it is
    /// not the cookie.
    pub fn options(&self, plan: &Plan) -> String {
        let Self { marks, options, .. } = self;
        match *marks {
            "file" | "shm" => options.clone(),
            _ if plan.has_versions() => format!("{LIMITS_WITHOUT_FAULTS}, {options}"),
            _ => format!("{LIMITS}, {options}"),
        }
    }

    /// Whether what it holds is in nginx, where another nginx does not see it.
    pub fn is_of_nginx(&self) -> bool {
        self.name == "shm"
    }

    fn of_files() -> Self {
        let directory = tempfile::tempdir().unwrap();
        let options = format!(r#"path = "{}""#, directory.path().display());
        Self { _directory: Some(directory), ..Self::empty("file", options) }
    }

    /// Puts a fault in, waits, and takes it out. Returns the worker that was killed, if one was.
    pub fn suffer(&mut self, fault: &Fault, world: &World, site: &Site) -> Option<i32> {
        match fault.kind {
            Kind::Stop => self.stop(fault),
            Kind::Restart => self.restart(world),
            Kind::FailOver => self.fail_over(fault, world),
            Kind::Reload => site.reload(),
            Kind::Switch => site.switch(),
            Kind::KillWorker => {
                let workers = site.workers();
                let worker = *workers.get(fault.choose(workers.len()))?;
                send(worker, Signal::SIGKILL);
                return Some(worker);
            }
            _ => self.through_proxy(fault, world),
        }
        None
    }

    fn stop(&self, fault: &Fault) {
        let master = self.group.as_ref().map(|group| group.servers.iter().find(|one| one.port == group.master()));
        let signal = |signal| match (&self.server, &master) {
            (Some(server), _) => server.signal(signal),
            (None, Some(Some(master))) => master.process.signal(signal),
            _ => (),
        };
        signal(Signal::SIGSTOP);
        sleep(fault.time);
        signal(Signal::SIGCONT);
    }

    fn restart(&mut self, world: &World) {
        let Some(server) = &mut self.server else { return };
        if self.loses {
            world.begin(Damage::Loss);
        }
        server.kill();
        server.start_again();
        world.end(Damage::Loss);
    }

    fn fail_over(&self, fault: &Fault, world: &World) {
        if let Some(cluster) = &self.cluster {
            // A master that hands over in order loses nothing.
            cluster.hand_over(fault.choose(3));
        }
        let Some(group) = &self.group else { return };
        world.begin(Damage::Undoing);
        group.fail_over();
        world.end(Damage::Undoing);
    }

    /// The proxy before the server, or before one of the Cluster's masters.
    fn proxy(&self, fault: &Fault) -> Option<&Proxy> {
        let Some(cluster) = &self.cluster else { return self.proxies.first() };
        self.proxies.get(cluster.master_of(fault.choose(3)))
    }

    fn through_proxy(&self, fault: &Fault, world: &World) {
        let Some(proxy) = self.proxy(fault) else { return };
        let how = if fault.detail & 1 == 0 { Cut::Finished } else { Cut::Reset };
        match fault.kind {
            Kind::Cut => return proxy.cut(how),
            Kind::CutHalf => return proxy.cut_every(how, 2),
            Kind::Forget => return proxy.forget_connections(),
            Kind::Flip => world.begin(Damage::Corruption),
            _ => (),
        }
        proxy.set(|behaviour| behave(behaviour, fault, how));
        if matches!(fault.kind, Kind::Refuse | Kind::Hang | Kind::AcceptAndCut | Kind::SlowAccept) {
            proxy.cut(how);
        }
        sleep(fault.time);
        proxy.pass();
        if fault.kind == Kind::Flip {
            // What follows a byte that was flipped may be taken for something else.
            proxy.cut(how);
            world.end(Damage::Corruption);
        }
    }
}

/// An array of addresses in Lua, whose hosts are called as `host` says.
fn addresses(host: &str, ports: &str) -> String {
    let addresses: Vec<_> =
        ports.split(',').map(|port| format!(r#"{{ {host} = "127.0.0.1", port = {port} }}"#)).collect();
    format!("{{ {} }}", addresses.join(", "))
}

fn behave(behaviour: &mut Behaviour, fault: &Fault, how: Cut) {
    let detail = fault.detail >> 8;
    let flow = match fault.kind {
        Kind::Delay => Flow { delay: Duration::from_millis(1 + detail % 60), ..Flow::default() },
        Kind::CutAfter => Flow { cut_after: Some((detail % 1500, how)), ..Flow::default() },
        Kind::Flip => Flow { flip_at: Some(detail % 1500), ..Flow::default() },
        _ => Flow::default(),
    };
    // A flipped bit of an SQL statement may delete what it should not.
    let to_server = fault.detail & 2 == 0 && !(fault.kind == Kind::Flip && fault.detail & 4 == 0);
    match to_server {
        true => behaviour.to_server = flow,
        false => behaviour.to_client = flow,
    }
    match fault.kind {
        Kind::Stall => behaviour.stalled = true,
        Kind::Refuse => behaviour.accept = Accept::Refuse,
        Kind::Hang => behaviour.accept = Accept::Hang,
        Kind::AcceptAndCut => behaviour.accept = Accept::Cut(how),
        Kind::SlowAccept => behaviour.accept = Accept::Wait,
        _ => (),
    }
}
