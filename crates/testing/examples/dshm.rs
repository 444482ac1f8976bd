//! A stand-in for ngx-distributed-shm where that cannot be had: one of the nodes that share a
//! memory, written from the [protocol's
//! description](https://github.com/grrolland/ngx-distributed-shm#protocol).
//!
//! usage: dshm PORT INNER [PEER]…
//!
//! It answers clients at `PORT`. What they change it passes on to other nodes' inner ports, before
//! it answers. At its own, `INNER`, it takes the same requests and passes none on; there it also
//! tells everything that it holds (`entries`).
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

use std::collections::BTreeMap;
use std::io::{self, BufRead as _, BufReader, Read as _, Write as _};
use std::net::{Ipv4Addr, TcpListener, TcpStream};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::thread;
use std::time::{Duration, Instant};

fn main() {
    let ports: Vec<u16> = std::env::args().skip(1).map(|port| port.parse().expect("a port")).collect();
    let [port, inner, peers @ ..] = ports.leak() else { panic!("usage: dshm PORT INNER [PEER]…") };
    let memory: &'static Memory = Box::leak(Box::default());
    let listen = |port| TcpListener::bind((Ipv4Addr::LOCALHOST, port)).expect("a free port");
    let (inside, outside) = (listen(*inner), listen(*port));
    thread::spawn(move || serve_all(&inside, memory, None));
    serve_all(&outside, memory, Some(peers));
}

/// Serves clients; none for `peers` means other nodes.
fn serve_all(listener: &TcpListener, memory: &'static Memory, peers: Option<&'static [u16]>) {
    for client in listener.incoming().map_while(Result::ok) {
        thread::spawn(move || serve(&client, memory, peers));
    }
}

/// Answers requests until there is no other.
fn serve(mut client: &TcpStream, memory: &Memory, peers: Option<&[u16]>) -> io::Result<()> {
    let mut from = BufReader::new(client);
    loop {
        let mut request = Vec::new();
        from.read_until(b'\n', &mut request)?;
        let Some(line) = request.strip_suffix(b"\r\n") else { return Ok(()) };
        let line = String::from_utf8_lossy(line).into_owned();
        let mut words: Vec<&str> = line.split(' ').collect();
        let verb = words[0].to_ascii_lowercase();
        words[0] = &verb;
        let answer = match words[..] {
            ["get", name] if is_escaped(name) => memory.get(name),
            ["set", name, ttl, size] if is_escaped(name) => {
                let (Ok(ttl), Ok(size @ 1..)) = (ttl.parse(), size.parse()) else { return client.write_all(MALFORMED) };
                let start = request.len();
                from.by_ref().take(size).read_to_end(&mut request)?;
                memory.set(name, ttl, &request[start..])
            }
            ["touch", name, ttl] if is_escaped(name) => match ttl.parse() {
                Ok(ttl) => memory.touch(name, ttl),
                Err(_) => return client.write_all(MALFORMED),
            },
            ["delete", name] if is_escaped(name) => memory.delete(name),
            ["entries"] if peers.is_none() => memory.tell(),
            ["quit"] => return Ok(()),
            // What follows may be a value: the rest cannot be told apart.
            _ => return client.write_all(MALFORMED),
        };
        if verb != "get" {
            pass_on(&request, peers.unwrap_or_default());
        }
        client.write_all(&answer)?;
    }
}

const MALFORMED: &[u8] = b"ERROR malformed_request\r\n";

/// Whether each part of a name is escaped as it must be.
fn is_escaped(name: &str) -> bool {
    !name.is_empty() && name.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"-._~!'()*%:".contains(&byte))
}

/// Lets peers do what was done here. One that is down misses it.
fn pass_on(request: &[u8], peers: &[u16]) {
    for peer in peers {
        let _ = TcpStream::connect((Ipv4Addr::LOCALHOST, *peer)).and_then(|mut peer| {
            peer.write_all(&[request, b"quit\r\n"].concat())?;
            peer.read_to_end(&mut Vec::new())
        });
    }
}

/// What the node holds, by name.
#[derive(Default)]
struct Memory(Mutex<BTreeMap<String, Entry>>);

struct Entry {
    value: Vec<u8>,
    /// None is never.
    end: Option<Instant>,
}

/// When an entry ends that is to live for so many seconds.
fn end(ttl: u32) -> Option<Instant> {
    (ttl > 0).then(|| Instant::now() + Duration::from_secs(ttl.into()))
}

fn found(value: &[u8]) -> Vec<u8> {
    [format!("LEN {}\r\n", value.len()).as_bytes(), value, b"\r\nDONE\r\n"].concat()
}

fn done() -> Vec<u8> {
    b"DONE\r\n".to_vec()
}

impl Memory {
    /// Those that are live.
    fn entries(&self) -> MutexGuard<'_, BTreeMap<String, Entry>> {
        let mut entries = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let now = Instant::now();
        entries.retain(|_, entry| entry.end.is_none_or(|end| end > now));
        entries
    }

    fn get(&self, name: &str) -> Vec<u8> {
        self.entries().get(name).map_or_else(|| b"ERROR not_found\r\n".to_vec(), |entry| found(&entry.value))
    }

    fn set(&self, name: &str, ttl: u32, value: &[u8]) -> Vec<u8> {
        self.entries().insert(name.to_owned(), Entry { value: value.to_vec(), end: end(ttl) });
        found(value)
    }

    fn touch(&self, name: &str, ttl: u32) -> Vec<u8> {
        if let Some(entry) = self.entries().get_mut(name) {
            entry.end = end(ttl);
        }
        done()
    }

    fn delete(&self, name: &str) -> Vec<u8> {
        self.entries().remove(name);
        done()
    }

    /// A line for each entry: its name, the seconds that it has left (0 where it never ends), and
    /// its value.
    fn tell(&self) -> Vec<u8> {
        let mut lines = Vec::new();
        for (name, entry) in &*self.entries() {
            let left = entry.end.map_or(0, |end| end.duration_since(Instant::now()).as_secs().max(1));
            lines.extend_from_slice(format!("{name} {left} {}\r\n", String::from_utf8_lossy(&entry.value)).as_bytes());
        }
        lines
    }
}
