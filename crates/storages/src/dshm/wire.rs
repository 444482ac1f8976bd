//! Requests and replies of ngx-distributed-shm's [line
//! protocol](https://github.com/grrolland/ngx-distributed-shm#protocol).

use std::fmt;

use crate::Error;
use crate::escape::escape_parts;
use crate::pipeline::{Protocol, invalid_reply, line, value};
use resty_session_core::time::Seconds;

/// The longest time to live that the server can store, in seconds.
const MAX_TTL: u64 = i32::MAX as u64;

/// The name of an entry at the server. The part before the first `:` names the map that holds the
/// entry.
pub struct Name(String);

impl Name {
    /// Escapes each part of a name. The parts are joined by `:`.
    pub fn new(name: &str) -> Self {
        Self(escape_parts(name))
    }

    /// The name of the entry beside this one that holds its expiry, because the server does not
    /// return expiries.
    pub fn expiry(&self) -> Self {
        Self(format!("{}:expiry", self.0))
    }
}

/// Requests a value.
pub fn get(Name(name): &Name) -> Vec<u8> {
    format!("get {name}\r\n").into_bytes()
}

/// Stores a value for `ttl`, at least a second: zero would mean for ever.
///
/// # Errors
///
/// The value is empty, which the server does not accept, or not ASCII: the server counts characters
/// where its protocol counts bytes.
pub fn set(Name(name): &Name, value: &[u8], ttl: Seconds) -> Result<Vec<u8>, Error> {
    if value.is_empty() || !value.is_ascii() {
        return Err(Error::Server("dshm accepts only ASCII values that are not empty".into()));
    }
    // No CRLF follows the value.
    let mut request = format!("set {name} {} {}\r\n", limited(ttl), value.len()).into_bytes();
    request.extend_from_slice(value);
    Ok(request)
}

/// Lets an entry expire in `ttl`, at least a second.
pub fn touch(Name(name): &Name, ttl: Seconds) -> Vec<u8> {
    format!("touch {name} {}\r\n", limited(ttl)).into_bytes()
}

/// Deletes an entry.
pub fn delete(Name(name): &Name) -> Vec<u8> {
    format!("delete {name}\r\n").into_bytes()
}

fn limited(ttl: Seconds) -> u64 {
    ttl.as_secs().clamp(1, MAX_TTL)
}

/// The server's reply to one request.
#[derive(PartialEq, Eq)]
pub enum Reply {
    Done,
    /// The value that was requested or stored.
    Value(Vec<u8>),
    Absent,
}

/// Without the value, which is a record.
impl fmt::Debug for Reply {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str(match self {
            Self::Done => "Done",
            Self::Value(_) => "Value(…)",
            Self::Absent => "Absent",
        })
    }
}

impl Reply {
    /// Returns the value, or `None` if there is no such entry.
    ///
    /// # Errors
    ///
    /// The reply has neither.
    pub fn value(self) -> Result<Option<Vec<u8>>, Error> {
        match self {
            Self::Value(value) => Ok(Some(value)),
            Self::Absent => Ok(None),
            Self::Done => Err(invalid_reply()),
        }
    }
}

/// The line protocol of dshm.
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
pub struct Lines;

impl Protocol for Lines {
    type Reply = Reply;
    const STORAGE: &'static str = "dshm";
    const GREETING: &'static [u8] = b"get resty-session:greeting\r\n";

    fn parse(bytes: &[u8]) -> Result<Option<(Reply, usize)>, Error> {
        const DONE: &[u8] = b"DONE\r\n";
        let Some((line, size)) = line(bytes)? else { return Ok(None) };
        match line.split_once(' ') {
            None if line == "DONE" => Ok(Some((Reply::Done, size))),
            Some(("LEN", length)) => {
                let Some((value, size)) = value(bytes, size, length)? else { return Ok(None) };
                let rest = &bytes[size..];
                match rest.strip_prefix(DONE) {
                    Some(_) => Ok(Some((Reply::Value(value), size + DONE.len()))),
                    None if DONE.starts_with(rest) => Ok(None),
                    None => Err(invalid_reply()),
                }
            }
            Some(("ERROR", "not_found")) => Ok(Some((Reply::Absent, size))),
            // The server did not understand a request, and takes that request's value for another
            // request.
            Some(("ERROR", reason)) => Err(Error::Server(format!("the server refuses a request: {reason}"))),
            _ => Err(invalid_reply()),
        }
    }

    /// The reply to `set` repeats the value.
    fn matches(request: &[u8], reply: &Reply) -> bool {
        let command = request.split(|byte| *byte == b' ').next();
        match reply {
            Reply::Value(_) if command == Some(b"get") => true,
            Reply::Value(value) => {
                let sent = memchr::memmem::find(request, b"\r\n").and_then(|at| request.get(at + 2..));
                command == Some(b"set") && sent == Some(value)
            }
            Reply::Done => matches!(command, Some(b"touch" | b"delete")),
            Reply::Absent => matches!(command, Some(b"get" | b"touch" | b"delete")),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SECOND: Seconds = Seconds::from_secs(1);

    #[test]
    fn replies_are_told_apart_and_wait_for_their_last_byte() {
        for (bytes, reply) in [
            (&b"DONE\r\n"[..], Reply::Done),
            (b"LEN 4\r\nDONE\r\nDONE\r\n", Reply::Value(b"DONE".to_vec())),
            (b"LEN 0\r\n\r\nDONE\r\n", Reply::Value(Vec::new())),
            (b"ERROR not_found\r\n", Reply::Absent),
        ] {
            for size in 0..bytes.len() {
                assert_eq!(Lines::parse(&bytes[..size]).unwrap(), None);
            }
            assert_eq!(Lines::parse(&[bytes, b"LEN"].concat()).unwrap(), Some((reply, bytes.len())));
        }
    }

    #[test]
    fn a_malformed_reply_is_an_error() {
        for bytes in [
            &b"HTTP/1.1 400 Bad Request\r\n"[..],
            b"LEN\r\n",
            b"LEN -1\r\n",
            b"LEN 99999999999\r\n",
            b"LEN 1\r\nabDONE\r\n",
            b"LEN 1\r\na\r\nDONX",
            b"LEN 1\r\na\r\nERROR not_found\r\n",
            b"DONE 1\r\n",
            b"done\r\n",
            b"ERROR malformed_request\r\n",
            b"\r\n",
        ] {
            assert!(Lines::parse(bytes).is_err(), "{}", String::from_utf8_lossy(bytes));
        }
    }

    #[test]
    fn replies_belong_to_their_requests() {
        let name = Name::new("k");
        let requests = [get(&name), set(&name, b"v", SECOND).unwrap(), touch(&name, SECOND), delete(&name)];
        for (reply, expected) in [
            (Reply::Value(b"v".to_vec()), [true, true, false, false]),
            (Reply::Value(b"w".to_vec()), [true, false, false, false]),
            (Reply::Done, [false, false, true, true]),
            (Reply::Absent, [true, false, true, true]),
        ] {
            assert_eq!(requests.each_ref().map(|request| Lines::matches(request, &reply)), expected, "{reply:?}");
        }
    }

    #[test]
    fn requests_are_lines_with_the_size_of_their_values() {
        let name = Name::new("my prefix:session:k\r\ny");
        assert_eq!(get(&name), b"get my%20prefix:session:k%0D%0Ay\r\n");
        assert_eq!(
            set(&name.expiry(), b"v", Seconds::ZERO).unwrap(),
            b"set my%20prefix:session:k%0D%0Ay:expiry 1 1\r\nv"
        );
        assert_eq!(touch(&Name::new("k"), Seconds::from_secs(u64::MAX)), b"touch k 2147483647\r\n");
        assert_eq!(delete(&Name::new("k")), b"delete k\r\n");
        assert!(set(&name, b"", SECOND).is_err() && set(&name, "ä".as_bytes(), SECOND).is_err());
    }
}
