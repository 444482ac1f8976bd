//! A memcached of its own.

use std::io::{Read, Write};
use std::net::TcpStream;
use std::os::unix::net::UnixStream;

use nix::sys::signal::Signal;

use crate::certificates::ServerTls;
use crate::server::{Process, Server, free_port};

pub struct Memcached {
    pub process: Process,
    pub port: u16,
}

impl Memcached {
    pub fn start(arguments: &[&str]) -> Self {
        let port = free_port();
        let listen = ["-p", &port.to_string(), "-U", "0", "-l", "127.0.0.1"];
        let mut memcached = Self::run(port, &[&listen, arguments].concat());
        memcached.process.wait_for("memcached", || TcpStream::connect(("127.0.0.1", port)).is_ok());
        memcached
    }

    /// One that speaks TLS only, so that [`Self::ask`] does not work.
    pub fn start_with(tls: &ServerTls) -> Self {
        let ServerTls { identity, ca, asks_clients } = tls;
        let files = [("chain_cert", &identity.certificate), ("key", &identity.key), ("ca_cert", ca)];
        let files = files.map(|(name, path)| format!("ssl_{name}={}", path.display())).join(",");
        // 2 demands a certificate.
        let mode = if *asks_clients { 2 } else { 0 };
        Self::start(&["-Z", "-o", &format!("{files},ssl_verify_mode={mode}")])
    }

    /// One that listens at a Unix socket alone.
    pub fn start_on_socket(path: &str) -> Self {
        let mut memcached = Self::run(0, &["-s", path]);
        memcached.process.wait_for("memcached", || UnixStream::connect(path).is_ok());
        memcached
    }

    fn run(port: u16, arguments: &[&str]) -> Self {
        let mut all: Vec<String> = arguments.iter().map(|argument| (*argument).to_owned()).collect();
        if nix::unistd::geteuid().is_root() {
            all.extend(["-u", "root"].map(str::to_owned));
        }
        Self { process: Process::start("memcached", all), port }
    }

    /// What the server says to a request, of which the CRLF at its end is left out in both.
    pub fn ask(&self, request: &str) -> String {
        let mut stream = TcpStream::connect(("127.0.0.1", self.port)).unwrap();
        // An answer to nothing marks the end of the other.
        stream.write_all(format!("{request}\r\nmn\r\nquit\r\n").as_bytes()).unwrap();
        let mut answer = String::new();
        stream.read_to_string(&mut answer).unwrap();
        answer.strip_suffix("MN\r\n").unwrap_or_else(|| panic!("{answer}")).trim_end_matches("\r\n").to_owned()
    }

    /// Stores an item as a client of the classic protocol does.
    pub fn plant(&self, name: &str, value: &str, ttl: u32) {
        assert_eq!(self.ask(&format!("set {name} 0 {ttl} {}\r\n{value}", value.len())), "STORED");
    }

    /// A number that the server keeps.
    pub fn count(&self, name: &str) -> u64 {
        let stats = self.ask("stats");
        let line = stats.lines().find_map(|line| line.strip_prefix(&format!("STAT {name} ")));
        line.unwrap_or_else(|| panic!("{stats}")).parse().unwrap()
    }

    /// Seconds that an item has left.
    pub fn ttl(&self, name: &str) -> i64 {
        let answer = self.ask(&format!("mg {name} t"));
        answer.strip_prefix("HD t").unwrap_or_else(|| panic!("{name}: {answer}")).parse().unwrap()
    }

    pub fn value(&self, name: &str) -> String {
        let answer = self.ask(&format!("mg {name} v"));
        answer.split_once("\r\n").unwrap_or_else(|| panic!("{name}: {answer}")).1.to_owned()
    }
}

impl Server for Memcached {
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
        let port = self.port;
        self.process.wait_for("memcached", || TcpStream::connect(("127.0.0.1", port)).is_ok());
    }
}
