//! Nodes of the stand-in for ngx-distributed-shm, `crates/testing/examples/dshm.rs`.

use std::collections::BTreeMap;
use std::io::{Read as _, Write as _};
use std::net::TcpStream;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::OnceLock;

use nix::sys::signal::Signal;

use crate::server::{Process, Server, free_port, root};

/// A node.
pub struct Dshm {
    process: Process,
    port: u16,
    /// Where other nodes reach it.
    inner: u16,
}

/// The stand-in's program, compiled once. Cargo would have to be asked from within Cargo, and build
/// everything anew for that.
fn program() -> &'static Path {
    static PROGRAM: OnceLock<PathBuf> = OnceLock::new();
    PROGRAM.get_or_init(|| {
        let program = std::env::current_exe().unwrap().with_file_name("dshm-stand-in");
        // Other processes may compile or run it at the same time.
        let own = tempfile::tempdir_in(program.parent().unwrap()).unwrap();
        let compiled = own.path().join("dshm");
        let compiler = std::env::var_os("RUSTC").unwrap_or_else(|| "rustc".into());
        let mut command = Command::new(compiler);
        command
            .args(["--edition", "2024"])
            .arg(root().join("crates/testing/examples/dshm.rs"))
            .arg("-o")
            .arg(&compiled);
        assert!(command.status().unwrap().success(), "the stand-in does not compile");
        std::fs::rename(compiled, &program).unwrap();
        program
    })
}

impl Dshm {
    pub fn start() -> Self {
        Self::start_on(free_port(), free_port(), None)
    }

    /// Two that share a memory.
    pub fn start_two() -> [Self; 2] {
        let (first, second) = (free_port(), free_port());
        [Self::start_on(free_port(), first, Some(second)), Self::start_on(free_port(), second, Some(first))]
    }

    fn start_on(port: u16, inner: u16, peer: Option<u16>) -> Self {
        let ports = [port, inner].into_iter().chain(peer).map(|port| port.to_string()).collect();
        let mut dshm = Self { process: Process::start(program(), ports), port, inner };
        dshm.wait();
        dshm
    }

    fn wait(&mut self) {
        let port = self.port;
        self.process.wait_for("the stand-in for dshm", || TcpStream::connect(("127.0.0.1", port)).is_ok());
    }

    /// Stores an entry. A `ttl` of 0 is for ever.
    pub fn plant(&self, name: &str, value: &str, ttl: u32) {
        let answer = Self::ask(self.port, &format!("set {name} {ttl} {}\r\n{value}", value.len()));
        assert_eq!(answer, format!("LEN {}\r\n{value}\r\nDONE\r\n", value.len()));
    }

    /// What the node holds: names, the seconds that each entry has left (0 where it never ends),
    /// values.
    pub fn entries(&self) -> BTreeMap<String, (u64, String)> {
        let entry = |line: &str| {
            let mut words = line.splitn(3, ' ').map(str::to_owned);
            let (name, left, value) = (words.next()?, words.next()?.parse().ok()?, words.next()?);
            Some((name, (left, value)))
        };
        Self::ask(self.inner, "entries\r\n").lines().map(|line| entry(line).unwrap()).collect()
    }

    fn ask(port: u16, request: &str) -> String {
        let mut stream = TcpStream::connect(("127.0.0.1", port)).unwrap();
        stream.write_all(format!("{request}quit\r\n").as_bytes()).unwrap();
        let mut answer = String::new();
        stream.read_to_string(&mut answer).unwrap();
        answer
    }
}

impl Server for Dshm {
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
