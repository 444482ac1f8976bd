//! Addresses of servers, in the forms in which programs write them.

use std::fmt;
use std::net::Ipv6Addr;

/// A server's address.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Node {
    /// A name or an IP address, without brackets. The server's certificate must be for it.
    pub host: String,
    /// The TCP port.
    pub port: u16,
}

/// Where a server listens.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum Address {
    /// A host and its port.
    Tcp(Node),
    /// The path of a Unix socket.
    Unix(String),
}

/// What precedes the path of a Unix socket.
const UNIX_PREFIX: &str = "unix:";

impl Address {
    /// Parses `unix:/path`, or any form of [`Node::parse`].
    ///
    /// # Errors
    ///
    /// The text is not an address; the error says why.
    pub fn parse(host: &str, default_port: u16) -> Result<Self, &'static str> {
        match host.strip_prefix(UNIX_PREFIX) {
            Some("") => Err("the path of the Unix socket is missing"),
            Some(path) => Ok(Self::Unix(path.to_owned())),
            None => Ok(Self::Tcp(Node::parse(host, default_port)?)),
        }
    }
}

impl Node {
    /// Parses `name`, `name:port`, `192.0.2.1`, `192.0.2.1:port`, `2001:db8::1`, `[2001:db8::1]` or
    /// `[2001:db8::1]:port`. The port is `default_port` if the text has none.
    ///
    /// # Errors
    ///
    /// The text is not an address. The error says why, but does not repeat the text, which may
    /// contain a password.
    pub fn parse(text: &str, default_port: u16) -> Result<Self, &'static str> {
        if text.starts_with(UNIX_PREFIX) {
            return Err("a Unix socket cannot be used here");
        }
        let (host, port) = split(text)?;
        if host.is_empty() {
            return Err("the host is missing");
        }
        let is_wrong = |c: char| c.is_whitespace() || c.is_control() || "/@[]".contains(c);
        if host.contains(is_wrong) {
            return Err("not a valid host");
        }
        let port = match port {
            None => default_port,
            Some(digits) => port_number(digits).ok_or("the port must be a number from 1 to 65535")?,
        };
        Ok(Self { host: host.to_owned(), port })
    }
}

/// As operators read it, and as it can be written in the options.
impl fmt::Display for Node {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.host.contains(':') {
            true => write!(formatter, "[{}]:{}", self.host, self.port),
            false => write!(formatter, "{}:{}", self.host, self.port),
        }
    }
}

impl fmt::Display for Address {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Tcp(node) => node.fmt(formatter),
            Self::Unix(path) => write!(formatter, "{UNIX_PREFIX}{path}"),
        }
    }
}

/// Splits a text into the host, without brackets, and the text of the port if there is one.
fn split(text: &str) -> Result<(&str, Option<&str>), &'static str> {
    let (address, port) = match text.strip_prefix('[') {
        Some(rest) => {
            let (address, rest) = rest.split_once(']').ok_or("a bracket is not closed")?;
            let port = rest.strip_prefix(':');
            if port.is_none() && !rest.is_empty() {
                return Err("only a colon and the port may follow the brackets");
            }
            (address, port)
        }
        None => match text.split_once(':') {
            Some((host, port)) if !port.contains(':') => return Ok((host, Some(port))),
            Some(_) => (text, None),
            None => return Ok((text, None)),
        },
    };
    // A link-local address has its network interface after the percent sign. No interface has a
    // colon in its name: what follows one is a port that needs brackets around the address.
    let (digits, zone) = address.split_once('%').unwrap_or((address, "-"));
    if digits.parse::<Ipv6Addr>().is_err() || zone.is_empty() || zone.contains(':') {
        return Err("not a valid IPv6 address");
    }
    Ok((address, port))
}

fn port_number(digits: &str) -> Option<u16> {
    let is_number = digits.bytes().all(|byte| byte.is_ascii_digit());
    digits.parse().ok().filter(|port| is_number && *port > 0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn hosts_have_a_port_or_the_default() {
        for (text, host, port) in [
            ("localhost", "localhost", 7),
            ("redis.internal:16300", "redis.internal", 16300),
            ("my_redis:1", "my_redis", 1),
            ("127.0.0.1", "127.0.0.1", 7),
            ("127.0.0.1:65535", "127.0.0.1", 65535),
            ("::1", "::1", 7),
            ("[::1]", "::1", 7),
            ("[::1]:16300", "::1", 16300),
            ("2001:db8::1", "2001:db8::1", 7),
            ("::ffff:192.0.2.1", "::ffff:192.0.2.1", 7),
            ("[fe80::1%eth0]:80", "fe80::1%eth0", 80),
            ("fe80::1%eth0", "fe80::1%eth0", 7),
        ] {
            let node = Node { host: host.into(), port };
            assert_eq!(Node::parse(text, 7), Ok(node.clone()), "{text}");
            let address = Address::Tcp(node);
            assert_eq!(Address::parse(&address.to_string(), 9), Ok(address.clone()), "{text}");
            assert_eq!(Address::parse(text, 7), Ok(address), "{text}");
        }
    }

    #[test]
    fn a_socket_is_an_address_but_not_a_node() {
        assert_eq!(Address::parse("unix:/run/a:b.sock", 7), Ok(Address::Unix("/run/a:b.sock".into())));
        assert!(Address::parse("unix:", 7).is_err());
        assert!(Node::parse("unix:/run/a.sock", 7).is_err());
    }

    #[test]
    fn text_that_is_not_an_address_is_an_error() {
        for text in [
            "",
            ":",
            ":80",
            "[]",
            "[]:80",
            "[::1",
            "::1]",
            "[::1]80",
            "[::1]:",
            "[::1]:0",
            "[::1]:70000",
            "[::1]:x",
            "[::1]:1:2",
            "[localhost]",
            "[127.0.0.1]:80",
            "[::1%]",
            "[[::1]]",
            "a:",
            "a:0",
            "a:65536",
            "a:99999999999",
            "a:+1",
            "a: 1",
            "a:x",
            "a:1:2",
            "1::2::3",
            "::1%",
            "fe80::1%eth0:6379",
            "[fe80::1%eth0:1]:80",
            "a b",
            "a\n",
            "a/b",
            "redis://a",
            "redis://u:p@a:6379",
            "u@a",
        ] {
            assert!(Address::parse(text, 7).is_err(), "{text}");
        }
    }
}
