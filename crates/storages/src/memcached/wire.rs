//! Requests and answers of memcached's [meta commands](https://docs.memcached.org/protocols/meta/).

use std::fmt;

use crate::Error;
use crate::escape::escape;
use crate::pipeline::{Protocol, line, number, unintelligible, value};

/// The longest name that the server takes.
const MAX_NAME: usize = 250;
/// A longer time to live would count as a time since the epoch.
const MAX_RELATIVE: u64 = 60 * 60 * 24 * 30;

/// What an item is called at the server.
pub struct Name(String);

impl Name {
    /// Escapes a name as lua-resty-memcached does, by nginx' `ngx.escape_uri`: names that it made are the same.
    ///
    /// # Errors
    ///
    /// The server takes none so long.
    pub fn new(name: &str) -> Result<Self, Error> {
        let escaped = escape(name);
        if escaped.len() > MAX_NAME {
            let size = escaped.len();
            let cause = format!("a name of {size} bytes is longer than the {MAX_NAME} that memcached takes");
            return Err(Error::Server(format!("{cause}; hash_subject makes the names of metadata shorter")));
        }
        Ok(Self(escaped))
    }
}

/// How long an item lives from now on.
#[derive(Clone, Copy)]
pub struct Expiry(u64);

impl Expiry {
    /// In `ttl` seconds, at least one: none would be for ever.
    pub fn after(ttl: u64, current_time: u64) -> Self {
        let ttl = ttl.max(1);
        Self(if ttl > MAX_RELATIVE { current_time.saturating_add(ttl) } else { ttl })
    }
}

/// How a value is stored.
#[derive(Clone, Copy)]
pub enum Mode {
    Set,
    /// Only where there is none; otherwise [`Answer::NotStored`].
    Add,
    /// Only where there is one; otherwise [`Answer::NotStored`].
    Replace,
    /// Only where nobody changed it since; otherwise [`Answer::Changed`] or [`Answer::Absent`].
    IfUnchanged(u64),
}

pub fn get(Name(name): &Name) -> Vec<u8> {
    format!("mg {name} k v\r\n").into_bytes()
}

/// Reads a value, what [`look`] asks for, and which change it is.
pub fn get_for_change(Name(name): &Name) -> Vec<u8> {
    format!("mg {name} k t s c v\r\n").into_bytes()
}

/// Asks for size and time to live.
pub fn look(Name(name): &Name) -> Vec<u8> {
    format!("mg {name} t s\r\n").into_bytes()
}

pub fn touch(Name(name): &Name, Expiry(expiry): Expiry) -> Vec<u8> {
    format!("mg {name} T{expiry}\r\n").into_bytes()
}

pub fn store(Name(name): &Name, value: &[u8], Expiry(expiry): Expiry, mode: Mode) -> Vec<u8> {
    let size = value.len();
    with_value(
        match mode {
            Mode::Set => format!("ms {name} {size} T{expiry}\r\n"),
            Mode::Add => format!("ms {name} {size} ME T{expiry}\r\n"),
            Mode::Replace => format!("ms {name} {size} MR T{expiry}\r\n"),
            Mode::IfUnchanged(change) => format!("ms {name} {size} C{change} T{expiry}\r\n"),
        },
        value,
    )
}

/// Adds to a value; its time to live stays. [`Answer::NotStored`] where there is none.
pub fn append(Name(name): &Name, value: &[u8]) -> Vec<u8> {
    with_value(format!("ms {name} {} MA\r\n", value.len()), value)
}

fn with_value(line: String, value: &[u8]) -> Vec<u8> {
    let mut request = Vec::with_capacity(line.len() + value.len() + 2);
    request.extend_from_slice(line.as_bytes());
    request.extend_from_slice(value);
    request.extend_from_slice(b"\r\n");
    request
}

pub fn delete(Name(name): &Name) -> Vec<u8> {
    format!("md {name}\r\n").into_bytes()
}

pub fn delete_if_unchanged(Name(name): &Name, change: u64) -> Vec<u8> {
    format!("md {name} C{change}\r\n").into_bytes()
}

/// What the server said to one request.
#[derive(PartialEq, Eq)]
pub enum Answer {
    Done(Facts),
    Value(Vec<u8>, Facts),
    Absent,
    NotStored,
    Changed,
    /// The server could not do it, and says why.
    Failed(String),
}

/// Without the value, which is a record.
impl fmt::Debug for Answer {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Done(facts) => formatter.debug_tuple("Done").field(facts).finish(),
            Self::Value(_, facts) => formatter.debug_tuple("Value").field(facts).finish_non_exhaustive(),
            Self::Absent => formatter.write_str("Absent"),
            Self::NotStored => formatter.write_str("NotStored"),
            Self::Changed => formatter.write_str("Changed"),
            Self::Failed(cause) => formatter.debug_tuple("Failed").field(cause).finish(),
        }
    }
}

/// What the server tells of an item, where it was asked for.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct Facts {
    /// Seconds that are left.
    pub ttl: Option<Ttl>,
    /// Bytes.
    pub size: usize,
    /// Which change made it what it is.
    pub change: u64,
    /// Its name, with every value.
    name: String,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Ttl {
    Seconds(u64),
    Endless,
}

impl Answer {
    /// An answer that the request does not have.
    ///
    /// # Errors
    ///
    /// Always: in the server's words where it has any.
    pub fn unexpected<T>(self) -> Result<T, Error> {
        match self {
            Self::Failed(cause) => Err(Error::Server(cause)),
            _ => Err(unintelligible()),
        }
    }
}

/// How memcached answers.
pub struct Meta;

impl Protocol for Meta {
    type Answer = Answer;

    fn read(bytes: &[u8]) -> Result<Option<(Answer, usize)>, Error> {
        let Some((line, size)) = line(bytes)? else { return Ok(None) };
        let (word, rest) = line.split_once(' ').unwrap_or((line, ""));
        let answer = match word {
            "HD" => Answer::Done(facts(rest)?),
            "VA" => {
                let (length, rest) = rest.split_once(' ').unwrap_or((rest, ""));
                let facts = facts(rest)?;
                let found = value(bytes, size, length)?;
                return Ok(found.map(|(value, size)| (Answer::Value(value, facts), size)));
            }
            "EN" | "NF" => Answer::Absent,
            "NS" => Answer::NotStored,
            "EX" => Answer::Changed,
            // The item is too large, or there is no room: the server has skipped its value.
            "SERVER_ERROR" => Answer::Failed(rest.to_owned()),
            // Of a request that it does not understand, the server may take the value for another.
            "CLIENT_ERROR" => return Err(Error::Server(format!("the server refuses a request: {rest}"))),
            "ERROR" if !rest.is_empty() => return Err(Error::Server(format!("the server says: {rest}"))),
            "ERROR" => return Err(Error::Server("the server is no memcached 1.6 or later".into())),
            _ => return Err(unintelligible()),
        };
        Ok(Some((answer, size)))
    }

    fn fits(request: &[u8], answer: &Answer) -> bool {
        let mut words = request.splitn(3, |byte| matches!(byte, b' ' | b'\r'));
        let (command, name) = (words.next(), words.next());
        match answer {
            Answer::Value(_, facts) => command == Some(b"mg") && name == Some(facts.name.as_bytes()),
            Answer::NotStored => command == Some(b"ms"),
            Answer::Changed => matches!(command, Some(b"ms" | b"md")),
            Answer::Done(_) | Answer::Absent | Answer::Failed(_) => true,
        }
    }
}

fn facts(flags: &str) -> Result<Facts, Error> {
    let mut facts = Facts::default();
    for flag in flags.split(' ').filter(|flag| !flag.is_empty()) {
        let (name, value) = flag.split_at_checked(1).ok_or_else(unintelligible)?;
        match name {
            "t" if value == "-1" => facts.ttl = Some(Ttl::Endless),
            "t" => facts.ttl = Some(Ttl::Seconds(number(value)?)),
            "s" => facts.size = number(value)?,
            "c" => facts.change = number(value)?,
            "k" => value.clone_into(&mut facts.name),
            _ => return Err(unintelligible()),
        }
    }
    Ok(facts)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn answers_are_told_apart() {
        let facts = Facts { ttl: Some(Ttl::Seconds(60)), size: 2, change: 7, name: "a%3Ab".into() };
        for (bytes, answer) in [
            (&b"HD\r\n"[..], Answer::Done(Facts::default())),
            (b"VA 2 ka%3Ab t60 s2 c7\r\n\r\n\r\n", Answer::Value(b"\r\n".to_vec(), facts)),
            (b"HD t-1\r\n", Answer::Done(Facts { ttl: Some(Ttl::Endless), ..Facts::default() })),
            (b"EN\r\n", Answer::Absent),
            (b"NF\r\n", Answer::Absent),
            (b"NS\r\n", Answer::NotStored),
            (b"EX\r\n", Answer::Changed),
            (b"SERVER_ERROR out of memory\r\n", Answer::Failed("out of memory".into())),
        ] {
            for size in 0..bytes.len() {
                assert_eq!(Meta::read(&bytes[..size]).unwrap(), None);
            }
            assert_eq!(Meta::read(&[bytes, b"EN\r\n"].concat()).unwrap(), Some((answer, bytes.len())));
        }
    }

    #[test]
    fn what_is_no_answer_is_an_error() {
        for bytes in [
            &b"HTTP/1.1 400 Bad Request\r\n"[..],
            b"VA\r\n",
            b"VA x\r\n",
            b"VA -1\r\n",
            b"VA 99999999999999999999\r\n",
            b"VA 40000000\r\n",
            b"VA 1 t\r\na\r\n",
            b"VA 1\r\nab\r\n",
            b"HD q1\r\n",
            b"HD \xc3\xa4\r\n",
            b"CLIENT_ERROR bad data chunk\r\n",
            b"ERROR\r\n",
            b"\r\n",
        ] {
            assert!(Meta::read(bytes).is_err(), "{}", String::from_utf8_lossy(bytes));
        }
    }

    #[test]
    fn values_belong_to_their_names() {
        let (name, other) = (Name::new("a:b").unwrap(), Name::new("a:c").unwrap());
        let (value, _) = Meta::read(b"VA 1 ka%3Ab\r\nv\r\n").unwrap().unwrap();
        assert!(Meta::fits(&get(&name), &value) && Meta::fits(&get_for_change(&name), &value));
        let stored = store(&name, b"v", Expiry(1), Mode::Set);
        for request in [&get(&other), &stored, &delete(&name)] {
            assert!(!Meta::fits(request, &value));
        }
        assert!(Meta::fits(&stored, &Answer::NotStored) && !Meta::fits(&get(&name), &Answer::NotStored));
    }

    #[test]
    fn long_times_are_points_in_time() {
        assert_eq!(Expiry::after(2_592_000, 1000).0, 2_592_000);
        assert_eq!(Expiry::after(2_592_001, 1000).0, 2_593_001);
        assert_eq!(Expiry::after(0, 1000).0, 1);
    }

    #[test]
    fn names_are_escaped_and_bounded() {
        assert_eq!(Name::new("a:b").unwrap().0, "a%3Ab");
        assert!(Name::new(&"x".repeat(250)).is_ok());
        assert!(Name::new(&":".repeat(84)).is_err());
    }
}
