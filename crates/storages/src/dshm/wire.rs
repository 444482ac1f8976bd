//! Requests and answers of ngx-distributed-shm's [line protocol](https://github.com/grrolland/ngx-distributed-shm#protocol).

use std::fmt;

use crate::Error;
use crate::escape::escape_parts;
use crate::pipeline::{Protocol, line, unintelligible, value};

/// What the server holds an expiry in.
const MAX_TTL: u64 = i32::MAX as u64;

/// What an entry is called at the server. What stands before the first `:` is the map that it is in.
pub struct Name(String);

impl Name {
    /// Escapes each part of a name.
    pub fn new(name: &str) -> Self {
        Self(escape_parts(name))
    }

    /// The entry of ours that tells when this one expires, which the server does not.
    pub fn expiry(&self) -> Self {
        Self(format!("{}:expiry", self.0))
    }
}

pub fn get(Name(name): &Name) -> Vec<u8> {
    format!("get {name}\r\n").into_bytes()
}

/// `ttl` is in seconds, at least one: none would be for ever.
///
/// # Errors
///
/// The server counts characters where the protocol counts bytes, and takes no value of none.
pub fn set(Name(name): &Name, value: &[u8], ttl: u64) -> Result<Vec<u8>, Error> {
    if value.is_empty() || !value.is_ascii() {
        return Err(Error::Server("dshm takes only values of ASCII characters, one at least".into()));
    }
    // No line's end follows the value.
    let mut request = format!("set {name} {} {}\r\n", limited(ttl), value.len()).into_bytes();
    request.extend_from_slice(value);
    Ok(request)
}

/// Lets an entry expire in `ttl` seconds, at least one.
pub fn touch(Name(name): &Name, ttl: u64) -> Vec<u8> {
    format!("touch {name} {}\r\n", limited(ttl)).into_bytes()
}

pub fn delete(Name(name): &Name) -> Vec<u8> {
    format!("delete {name}\r\n").into_bytes()
}

fn limited(ttl: u64) -> u64 {
    ttl.clamp(1, MAX_TTL)
}

/// What the server said to one request.
#[derive(PartialEq, Eq)]
pub enum Answer {
    Done,
    /// The value that was asked for, or set.
    Value(Vec<u8>),
    Absent,
}

/// Without the value, which is a record.
impl fmt::Debug for Answer {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str(match self {
            Self::Done => "Done",
            Self::Value(_) => "Value(…)",
            Self::Absent => "Absent",
        })
    }
}

impl Answer {
    /// The value, if there is any.
    ///
    /// # Errors
    ///
    /// It is the answer to something else.
    pub fn value(self) -> Result<Option<Vec<u8>>, Error> {
        match self {
            Self::Value(value) => Ok(Some(value)),
            Self::Absent => Ok(None),
            Self::Done => Err(unintelligible()),
        }
    }
}

/// How dshm answers.
pub struct Lines;

impl Protocol for Lines {
    type Answer = Answer;

    fn read(bytes: &[u8]) -> Result<Option<(Answer, usize)>, Error> {
        const DONE: &[u8] = b"DONE\r\n";
        let Some((line, size)) = line(bytes)? else { return Ok(None) };
        match line.split_once(' ') {
            None if line == "DONE" => Ok(Some((Answer::Done, size))),
            Some(("LEN", length)) => {
                let Some((value, size)) = value(bytes, size, length)? else { return Ok(None) };
                let rest = &bytes[size..];
                match rest.strip_prefix(DONE) {
                    Some(_) => Ok(Some((Answer::Value(value), size + DONE.len()))),
                    None if DONE.starts_with(rest) => Ok(None),
                    None => Err(unintelligible()),
                }
            }
            Some(("ERROR", "not_found")) => Ok(Some((Answer::Absent, size))),
            // Of a request that it does not understand, the server takes the value for another.
            Some(("ERROR", reason)) => Err(Error::Server(format!("the server refuses a request: {reason}"))),
            _ => Err(unintelligible()),
        }
    }

    /// What was set is repeated.
    fn fits(request: &[u8], answer: &Answer) -> bool {
        let command = request.split(|byte| *byte == b' ').next();
        match answer {
            Answer::Value(_) if command == Some(b"get") => true,
            Answer::Value(value) => {
                let sent = memchr::memmem::find(request, b"\r\n").and_then(|at| request.get(at + 2..));
                command == Some(b"set") && sent == Some(value)
            }
            Answer::Done => matches!(command, Some(b"touch" | b"delete")),
            Answer::Absent => matches!(command, Some(b"get" | b"touch" | b"delete")),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn answers_are_told_apart() {
        for (bytes, answer) in [
            (&b"DONE\r\n"[..], Answer::Done),
            (b"LEN 4\r\nDONE\r\nDONE\r\n", Answer::Value(b"DONE".to_vec())),
            (b"LEN 0\r\n\r\nDONE\r\n", Answer::Value(Vec::new())),
            (b"ERROR not_found\r\n", Answer::Absent),
        ] {
            for size in 0..bytes.len() {
                assert_eq!(Lines::read(&bytes[..size]).unwrap(), None);
            }
            assert_eq!(Lines::read(&[bytes, b"LEN"].concat()).unwrap(), Some((answer, bytes.len())));
        }
    }

    #[test]
    fn what_is_no_answer_is_an_error() {
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
            assert!(Lines::read(bytes).is_err(), "{}", String::from_utf8_lossy(bytes));
        }
    }

    #[test]
    fn answers_belong_to_their_requests() {
        let name = Name::new("k");
        let requests = [get(&name), set(&name, b"v", 1).unwrap(), touch(&name, 1), delete(&name)];
        for (answer, fits) in [
            (Answer::Value(b"v".to_vec()), [true, true, false, false]),
            (Answer::Value(b"w".to_vec()), [true, false, false, false]),
            (Answer::Done, [false, false, true, true]),
            (Answer::Absent, [true, false, true, true]),
        ] {
            assert_eq!(requests.each_ref().map(|request| Lines::fits(request, &answer)), fits, "{answer:?}");
        }
    }

    #[test]
    fn requests_are_lines_and_a_value_ends_where_it_says() {
        let name = Name::new("my prefix:session:k\r\ny");
        assert_eq!(get(&name), b"get my%20prefix:session:k%0D%0Ay\r\n");
        assert_eq!(set(&name.expiry(), b"v", 0).unwrap(), b"set my%20prefix:session:k%0D%0Ay:expiry 1 1\r\nv");
        assert_eq!(touch(&Name::new("k"), u64::MAX), b"touch k 2147483647\r\n");
        assert_eq!(delete(&Name::new("k")), b"delete k\r\n");
        assert!(set(&name, b"", 1).is_err() && set(&name, "ä".as_bytes(), 1).is_err());
    }
}
