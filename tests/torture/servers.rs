//! The storages: their servers behind the proxy, and what can be done to them.

use std::thread::sleep;
use std::time::Duration;

use nix::sys::signal::Signal;
use resty_session_testing::dshm_server::Dshm;
use resty_session_testing::memcached_server::Memcached;
use resty_session_testing::proxy::{Accept, Behaviour, Cut, Flow, Proxy};
use resty_session_testing::redis_servers::{Group, Redis};
use resty_session_testing::server::{Nginx, Server, send};
use resty_session_testing::sql_servers::Database;

use super::plan::{Fault, Kind};
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
/// Time limits of the storages, in milliseconds.
const LIMITS: &str = "connect_timeout = 500, send_timeout = 500, read_timeout = 500";

/// A storage that is tortured.
pub struct Storage {
    /// Its name in the configuration.
    pub name: &'static str,
    /// Its options in Lua.
    pub options: String,
    /// The kinds of faults that it can have.
    pub possible: Vec<Kind>,
    /// Whether it notes all of a user's sessions.
    pub lists_all: bool,
    /// Whether a restart loses what it holds.
    loses: bool,
    server: Option<Box<dyn Server + Send>>,
    proxy: Option<Proxy>,
    group: Option<Group>,
    _directory: Option<tempfile::TempDir>,
}

impl Storage {
    /// Starts the storage of this name.
    pub fn start(name: &str) -> Self {
        match name {
            // With `everysec`, what was acknowledged within the last two seconds may not be in the file.
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
            other => panic!("STORAGE={other}: redis, sentinel, memcached, dshm, postgres, mysql or file"),
        }
    }

    fn empty(name: &'static str, options: String) -> Self {
        Self {
            name,
            options,
            possible: OF_NGINX.to_vec(),
            lists_all: true,
            loses: false,
            server: None,
            proxy: None,
            group: None,
            _directory: None,
        }
    }

    fn of_server(name: &'static str, server: impl Server + Send + 'static, more: &str) -> Self {
        let proxy = Proxy::start(server.port());
        let options = format!("port = {}, {LIMITS}, {more}", proxy.port);
        let possible = [&OF_PROXY[..], &OF_SERVER[..], &OF_NGINX[..]].concat();
        Self { possible, server: Some(Box::new(server)), proxy: Some(proxy), ..Self::empty(name, options) }
    }

    /// Sentinels tell where the master is, so there is no proxy before it.
    fn of_group() -> Self {
        let group = Group::start();
        let ports = group.sentinel_ports();
        let sentinels: Vec<_> =
            ports.split(',').map(|port| format!(r#"{{ host = "127.0.0.1", port = {port} }}"#)).collect();
        let options = format!(r#"master = "sessions", sentinels = {{ {} }}, {LIMITS}"#, sentinels.join(", "));
        let possible = [&[Kind::FailOver, Kind::Stop][..], &OF_NGINX[..]].concat();
        Self { possible, group: Some(group), ..Self::empty("redis", options) }
    }

    fn of_files() -> Self {
        let directory = tempfile::tempdir().unwrap();
        let options = format!(r#"path = "{}""#, directory.path().display());
        Self { _directory: Some(directory), ..Self::empty("file", options) }
    }

    /// Puts a fault in, waits, and takes it out. Returns the worker that was killed, if one was.
    pub fn suffer(&mut self, fault: &Fault, world: &World, nginx: &Nginx) -> Option<i32> {
        match fault.kind {
            Kind::Stop => self.stop(fault),
            Kind::Restart => self.restart(world),
            Kind::FailOver => self.fail_over(world),
            Kind::Reload => nginx.reload(),
            Kind::KillWorker => {
                let workers = nginx.workers();
                let worker = *workers.get(usize::try_from(fault.detail).unwrap_or(0) % workers.len().max(1))?;
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

    fn fail_over(&self, world: &World) {
        let Some(group) = &self.group else { return };
        world.begin(Damage::Undoing);
        group.fail_over();
        world.end(Damage::Undoing);
    }

    fn through_proxy(&self, fault: &Fault, world: &World) {
        let Some(proxy) = &self.proxy else { return };
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
