//! A plain HTTP client, whose requests can be sent together and broken off.

use std::io::{Error, Read, Result, Write};
use std::net::TcpStream;
use std::time::{Duration, Instant};

use fastrand::Rng;
use resty_session_testing::server::slowness;
use serde_json::Value;

/// How long a reply may take. Programs have time limits that are much shorter.
const PATIENCE: Duration = Duration::from_secs(20);

/// What a server replied.
pub struct Response {
    pub status: u16,
    /// The values of the `Set-Cookie` lines.
    pub cookies: Vec<String>,
    pub body: Value,
    /// The body as it came.
    pub text: String,
}

/// Connections to nginx that can be used again.
pub struct Client {
    ports: Vec<u16>,
    idle: Vec<(u16, TcpStream)>,
}

/// A request that was sent.
pub struct Sent {
    stream: TcpStream,
    port: u16,
    pub start: Instant,
}

impl Client {
    /// A client of the nginx servers on these ports.
    pub fn new(ports: &[u16]) -> Self {
        Self { ports: ports.to_vec(), idle: Vec::new() }
    }

    /// The port of the nginx that a request is for. Where one is alone, nothing is decided.
    pub fn choose(&self, rng: &mut Rng) -> u16 {
        let at = if self.ports.len() > 1 { rng.usize(..self.ports.len()) } else { 0 };
        self.ports[at]
    }

    fn idle(&mut self, port: u16) -> Option<TcpStream> {
        let at = self.idle.iter().rposition(|(to, _)| *to == port)?;
        Some(self.idle.remove(at).1).filter(is_open)
    }

    /// Sends a request, on a new connection if it is told to.
    pub fn send(&mut self, port: u16, path: &str, cookie: &str, fresh: bool) -> Result<Sent> {
        let start = Instant::now();
        let kept = if fresh { None } else { self.idle(port) };
        let mut stream = match kept {
            Some(stream) => stream,
            None => TcpStream::connect(("127.0.0.1", port))?,
        };
        stream.set_read_timeout(Some(PATIENCE * slowness()))?;
        stream.set_nodelay(true)?;
        let cookie = if cookie.is_empty() { String::new() } else { format!("Cookie: {cookie}\r\n") };
        stream.write_all(format!("GET {path} HTTP/1.1\r\nHost: torture\r\n{cookie}\r\n").as_bytes())?;
        Ok(Sent { stream, port, start })
    }

    /// Begins to send a request, and stops before its end.
    pub fn send_half(&self, port: u16, path: &str) -> Result<()> {
        let mut stream = TcpStream::connect(("127.0.0.1", port))?;
        stream.write_all(format!("GET {path} HTTP/1.1\r\nHost: tort").as_bytes())
    }

    /// Reads the reply to a request.
    pub fn receive(&mut self, mut sent: Sent) -> Result<Response> {
        let response = read(&mut sent.stream)?;
        if self.idle.len() < 4 {
            self.idle.push((sent.port, sent.stream));
        }
        Ok(response)
    }
}

/// Whether nginx has not closed a connection.
fn is_open(stream: &TcpStream) -> bool {
    let would_block = |error: Error| error.kind() == std::io::ErrorKind::WouldBlock;
    let open = stream.set_nonblocking(true).is_ok() && stream.peek(&mut [0]).is_err_and(would_block);
    open && stream.set_nonblocking(false).is_ok()
}

fn read(stream: &mut TcpStream) -> Result<Response> {
    let mut bytes = Vec::new();
    let mut part = [0; 4096];
    loop {
        if let Some(response) = parse(&bytes) {
            return Ok(response);
        }
        match stream.read(&mut part)? {
            0 => return Err(Error::other("the connection ended")),
            size => bytes.extend_from_slice(&part[..size]),
        }
    }
}

/// A response, once all of it is there. All of them say how long they are.
fn parse(bytes: &[u8]) -> Option<Response> {
    let text = String::from_utf8_lossy(bytes);
    let (head, body) = text.split_once("\r\n\r\n")?;
    let field = |name| values_of(head, name);
    let length = field("Content-Length").next().and_then(|length| length.parse().ok()).unwrap_or(0);
    if body.len() < length {
        return None;
    }
    Some(Response {
        status: head.get(9..12).and_then(|status| status.parse().ok()).unwrap_or(0),
        cookies: field("Set-Cookie").map(str::to_owned).collect(),
        body: serde_json::from_str(body).unwrap_or(Value::Null),
        text: body.to_owned(),
    })
}

/// The values of the header lines of a name.
fn values_of<'a>(head: &'a str, name: &'a str) -> impl Iterator<Item = &'a str> {
    let fields = head.lines().filter_map(|line| line.split_once(": "));
    fields.filter(move |(key, _)| key.eq_ignore_ascii_case(name)).map(|(_, value)| value)
}
