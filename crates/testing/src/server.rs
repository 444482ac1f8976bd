//! An nginx of its own for each test, on a free port, with its files in a temporary directory.

use std::env::consts::ARCH;
use std::fs::{self, File};
use std::net::{Ipv4Addr, TcpListener, TcpStream};
use std::ops::RangeInclusive;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::{Mutex, PoisonError};
use std::thread::sleep;
use std::time::{Duration, Instant};

use nix::errno::Errno;
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

pub struct Nginx {
    child: Child,
    pub port: u16,
    dir: tempfile::TempDir,
}

/// What goes into the configuration.
#[derive(Default)]
pub struct Site<'a> {
    /// Directives outside all blocks.
    pub main: &'a str,
    /// Directives of the http block.
    pub http: &'a str,
    /// Lua code to run in the master.
    pub init: &'a str,
    /// Directives of the server block.
    pub server: &'a str,
    pub workers: usize,
    /// A command that nginx' own is appended to, if nginx is to run under one.
    pub under: &'a [&'a str],
    /// Where the Lua files and the native modules are, if not where `make build` leaves them.
    pub lualib: Option<(&'a Path, &'a Path)>,
}

/// The repository.
pub fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).ancestors().nth(2).unwrap().to_path_buf()
}

pub fn binary() -> String {
    std::env::var("NGINX").ok().filter(|path| !path.is_empty()).unwrap_or_else(|| "/usr/sbin/nginx".into())
}

/// Where the library is: what `make build` leaves, or the directory that the variable `LUALIB`
/// names.
pub fn lualib() -> PathBuf {
    let elsewhere = std::env::var_os("LUALIB").filter(|path| !path.is_empty());
    root().join(elsewhere.unwrap_or_else(|| "build/lualib".into()))
}

/// A tool that each nginx runs under, with its arguments, from the variable `NGINX_UNDER`.
fn tool() -> Vec<String> {
    std::env::var("NGINX_UNDER").unwrap_or_default().split_whitespace().map(str::to_owned).collect()
}

/// How many times longer everything may take than on a machine that nothing slows down: a whole
/// number in the variable `SLOWNESS`.
pub fn slowness() -> u32 {
    std::env::var("SLOWNESS").ok().and_then(|factor| factor.parse().ok()).unwrap_or(1)
}

/// The ports that tests use: below those that systems give to connections, as are those 10,000
/// above, on which the nodes of a Redis Cluster listen too.
const PORTS: RangeInclusive<u16> = 10_000..=15_999;
/// Ports that a process takes at once.
const BLOCK: u16 = 100;

/// A port that nobody listens on. No other call gets it, in this process or, while it runs, in
/// another.
pub fn free_port() -> u16 {
    static BLOCKS: Mutex<Vec<(File, RangeInclusive<u16>)>> = Mutex::new(Vec::new());
    let mut blocks = BLOCKS.lock().unwrap_or_else(PoisonError::into_inner);
    loop {
        if let Some(port) = blocks.last_mut().and_then(|(_, ports)| ports.find(|port| is_free(*port))) {
            return port;
        }
        let taken = PORTS.step_by(BLOCK.into()).find_map(|first| Some((lock(first)?, first..=first + BLOCK - 1)));
        blocks.push(taken.expect("other tests have taken all ports"));
    }
}

fn is_free(port: u16) -> bool {
    TcpListener::bind((Ipv4Addr::UNSPECIFIED, port)).is_ok()
}

/// A lock on the block of ports that starts here, unless there is another. It ends with the
/// process.
fn lock(first: u16) -> Option<File> {
    let directory = std::env::temp_dir().join("resty-session-test-ports");
    fs::create_dir_all(&directory).ok()?;
    let file = File::options().create(true).append(true).open(directory.join(first.to_string())).ok()?;
    file.try_lock().ok()?;
    Some(file)
}

pub fn wait_for(what: &str, mut condition: impl FnMut() -> bool) {
    let deadline = Instant::now() + Duration::from_secs(20) * slowness();
    while !condition() {
        assert!(Instant::now() < deadline, "{what} took too long");
        sleep(Duration::from_millis(20));
    }
}

/// A server that can be made to fail.
pub trait Server {
    fn port(&self) -> u16;
    /// Sends a signal to all of its processes. `SIGSTOP` makes it hang: the system still accepts
    /// connections for it.
    fn signal(&self, signal: Signal);
    /// Kills it.
    fn kill(&mut self);
    /// Starts the server again after it was killed, on its port, without what was stored.
    fn start_again(&mut self);
}

/// A server's process, which can be made to fail, and to start again as it was. It ends with this
/// value.
pub struct Process {
    child: Option<Child>,
    program: PathBuf,
    arguments: Vec<String>,
}

impl Process {
    pub fn start(program: impl Into<PathBuf>, arguments: Vec<String>) -> Self {
        let mut process = Self { child: None, program: program.into(), arguments };
        process.start_again();
        process
    }

    /// Starts what was killed. Who needs it waits until it serves.
    pub fn start_again(&mut self) {
        let mut command = Command::new(&self.program);
        command.args(&self.arguments).stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
        self.child = Some(command.spawn().unwrap_or_else(|error| panic!("{}: {error}", self.program.display())));
    }

    /// Waits until the server serves. One that has ended, as where it could not listen, does not.
    pub fn wait_for(&mut self, what: &str, mut serves: impl FnMut() -> bool) {
        wait_for(what, || {
            if let Some(status) = self.child.as_mut().and_then(|child| child.try_wait().unwrap()) {
                panic!("{what} ended with {status}");
            }
            serves()
        });
    }

    pub fn pid(&self) -> i32 {
        i32::try_from(self.child.as_ref().unwrap().id()).unwrap()
    }

    pub fn signal(&self, signal: Signal) {
        send(self.pid(), signal);
    }

    pub fn kill(&mut self) {
        self.signal(Signal::SIGKILL);
        self.child.take().unwrap().wait().unwrap();
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        if let Some(mut child) = self.child.take() {
            let _ = child.kill();
            let _ = child.wait();
        }
    }
}

fn modules(nginx: &str) -> String {
    let output = Command::new(root().join("scripts/nginx-modules")).arg(nginx).output().unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8(output.stdout).unwrap()
}

impl Nginx {
    pub fn start(site: &Site) -> Self {
        let lualib = lualib();
        assert!(lualib.join("resty/session/native.so").exists(), "run `make build` first");
        let dir = tempfile::tempdir().unwrap();
        let port = free_port();
        let conf = dir.path().join("nginx.conf");
        fs::write(&conf, configuration(site, dir.path(), &lualib, port)).unwrap();
        let log = fs::File::create(dir.path().join("stderr.log")).unwrap();
        let (binary, tool) = (binary(), tool());
        let mut command = site.under.iter().copied().chain(tool.iter().map(String::as_str)).chain([binary.as_str()]);
        let child = Command::new(command.next().unwrap_or_default())
            .args(command)
            // nginx itself takes a variable of that name for sockets that it inherits.
            .env_remove("NGINX")
            .args(["-p", dir.path().to_str().unwrap(), "-c", conf.to_str().unwrap()])
            .stderr(log)
            .stdin(Stdio::null())
            .spawn()
            .unwrap_or_else(|error| panic!("{binary}: {error}"));
        let mut nginx = Self { child, port, dir };
        wait_for("nginx's start", || {
            if let Some(status) = nginx.child.try_wait().unwrap() {
                panic!(
                    "nginx ended with {status}: {}",
                    fs::read_to_string(nginx.dir.path().join("stderr.log")).unwrap()
                );
            }
            // It has workers once it listens.
            !nginx.workers().is_empty() && TcpStream::connect(("127.0.0.1", port)).is_ok()
        });
        nginx
    }

    pub fn url(&self, path: &str) -> String {
        format!("http://127.0.0.1:{}{path}", self.port)
    }

    fn pid(&self) -> i32 {
        i32::try_from(self.child.id()).unwrap()
    }

    pub fn reload(&self) {
        kill(Pid::from_raw(self.pid()), Signal::SIGHUP).unwrap();
    }

    /// Reloads with another configuration, on the same port. What another version of the library
    /// left in nginx's shared memory stays there.
    pub fn reload_as(&self, site: &Site) {
        let configuration = configuration(site, self.dir.path(), &lualib(), self.port);
        fs::write(self.dir.path().join("nginx.conf"), configuration).unwrap();
        self.reload();
    }

    /// The workers' process ids, including those that are about to leave; empty if nginx has ended.
    pub fn workers(&self) -> Vec<i32> {
        let children = fs::read_to_string(format!("/proc/{0}/task/{0}/children", self.pid())).unwrap_or_default();
        children.split_whitespace().map(|pid| pid.parse().unwrap()).collect()
    }

    pub fn log(&self) -> String {
        fs::read_to_string(self.dir.path().join("error.log")).unwrap_or_default()
    }

    /// The lines of the log that are above notice. Most tests' secrets are short, of which the log
    /// warns.
    pub fn complaints(&self) -> Vec<String> {
        let serious = ["[warn]", "[error]", "[crit]", "[alert]", "[emerg]"];
        // That a server is unavailable is seen by tests that make it so.
        let expected = ["can be guessed", ": unavailable: "];
        let is_complaint = |line: &&str| {
            serious.iter().any(|level| line.contains(level)) && !expected.iter().any(|text| line.contains(text))
        };
        self.log().lines().filter(is_complaint).map(Into::into).collect()
    }
}

impl Drop for Nginx {
    /// A worker that does not leave is killed, so that a test that has failed ends.
    fn drop(&mut self) {
        let _ = kill(Pid::from_raw(self.pid()), Signal::SIGTERM);
        let deadline = Instant::now() + Duration::from_secs(10) * slowness();
        while matches!(self.child.try_wait(), Ok(None)) {
            if Instant::now() > deadline {
                for worker in self.workers() {
                    let _ = kill(Pid::from_raw(worker), Signal::SIGKILL);
                }
                let _ = self.child.kill();
            }
            sleep(Duration::from_millis(5));
        }
    }
}

/// Where Debian has busted and the benches' clients, after the paths of an OpenResty, which looks
/// elsewhere.
const DEBIANS_LUA: &str = "/usr/share/lua/5.1/?.lua;/usr/share/lua/5.1/?/init.lua";

fn configuration(site: &Site, dir: &Path, lualib: &Path, port: u16) -> String {
    let (dir, root) = (dir.display(), root().display().to_string());
    let Site { main, http, init, server, workers, lualib: elsewhere, .. } = site;
    let (lualib, clualib) = elsewhere.unwrap_or((lualib, lualib));
    let (lualib, clualib) = (lualib.display(), clualib.display());
    let workers = (*workers).max(1);
    let user = if nix::unistd::geteuid().is_root() { "user root;" } else { "" };
    let modules = modules(&binary());
    format!(
        r#"{modules}
{user}
{main}
daemon off;
worker_processes {workers};
pid {dir}/nginx.pid;
error_log {dir}/error.log notice;
events {{ worker_connections 512; }}
http {{
    access_log off;
    client_body_temp_path {dir}/body;
    proxy_temp_path {dir}/proxy;
    fastcgi_temp_path {dir}/fastcgi;
    uwsgi_temp_path {dir}/uwsgi;
    scgi_temp_path {dir}/scgi;
    large_client_header_buffers 8 64k;
    lua_package_path "{lualib}/?.lua;{root}/?.lua;;{DEBIANS_LUA}";
    lua_package_cpath "{clualib}/?.so;;/usr/lib/{ARCH}-linux-gnu/lua/5.1/?.so";
    lua_shared_dict sessions 1m;
    {http}
    init_by_lua_block {{ {init} }}
    server {{
        listen 127.0.0.1:{port};
        {server}
    }}
}}
"#
    )
}

/// Sends a process a signal, unless it has ended. One that stops it is waited for until each of its
/// threads has stopped.
pub fn send(process: i32, signal: Signal) {
    match kill(Pid::from_raw(process), signal) {
        Err(Errno::ESRCH) => return,
        result => result.unwrap(),
    }
    if signal == Signal::SIGSTOP {
        wait_for("a process to stop", || {
            let Ok(threads) = fs::read_dir(format!("/proc/{process}/task")) else { return true };
            threads.flatten().map(|thread| fs::read_to_string(thread.path().join("stat")).unwrap_or_default()).all(
                |stat| {
                    // The state stands behind the name, which is in parentheses.
                    stat.rsplit_once(") ").is_none_or(|(_, rest)| rest.starts_with('T'))
                },
            )
        });
    }
}

#[test]
fn no_port_is_given_twice() {
    let take = || (0..150).map(|_| free_port()).collect::<Vec<_>>();
    let mut ports = std::thread::scope(|scope| {
        let other = scope.spawn(take);
        [take(), other.join().unwrap()].concat()
    });
    ports.sort_unstable();
    ports.dedup();
    assert_eq!(ports.len(), 300);
}
