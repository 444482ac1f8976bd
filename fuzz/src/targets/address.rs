//! Addresses of servers, against each of the forms in which programs may write them.

use std::net::Ipv6Addr;

use resty_session_storages::network::{Address, Node};

use crate::seeds;

const DEFAULT: u16 = 7;

pub fn seeds() -> Vec<Vec<u8>> {
    seeds::texts([
        "localhost",
        "redis.internal:16300",
        "127.0.0.1:65535",
        "::1",
        "[2001:db8::1]:16300",
        "[fe80::1%eth0]:80",
        "::ffff:192.0.2.1",
        "unix:/run/a:b.sock",
        "redis://u:p@a:6379",
        "[::1%]",
    ])
}

pub fn run(data: &[u8]) {
    let Ok(text) = std::str::from_utf8(data) else { return };
    let found = Node::parse(text, DEFAULT);
    assert_eq!(found.clone().ok(), node(text));
    let address = Address::parse(text, DEFAULT);
    match text.strip_prefix("unix:") {
        Some(path) => assert_eq!(address.clone().ok(), (!path.is_empty()).then(|| Address::Unix(path.to_owned()))),
        None => assert_eq!(address.clone().ok(), found.ok().map(Address::Tcp)),
    }
    match address {
        // No form tells a host of this name with a port from a socket.
        Ok(Address::Tcp(node)) if node.host == "unix" => {}
        Ok(address) => assert_eq!(Address::parse(&address.to_string(), 9), Ok(address.clone()), "written as {address}"),
        Err(_) => {}
    }
}

fn node(text: &str) -> Option<Node> {
    let of = |host: &str, port: u16| Some(Node { host: host.to_owned(), port });
    if text.starts_with("unix:") {
        return None;
    }
    if is_ipv6(text) {
        return of(text, DEFAULT);
    }
    if let Some(rest) = text.strip_prefix('[') {
        let (host, rest) = rest.split_once(']').filter(|(host, _)| is_ipv6(host))?;
        return match rest {
            "" => of(host, DEFAULT),
            rest => of(host, port(rest.strip_prefix(':')?)?),
        };
    }
    match text.split_once(':') {
        Some((host, digits)) if is_name(host) => of(host, port(digits)?),
        None if is_name(text) => of(text, DEFAULT),
        _ => None,
    }
}

fn is_ipv6(text: &str) -> bool {
    match text.split_once('%') {
        None => text.parse::<Ipv6Addr>().is_ok(),
        Some((address, zone)) => address.parse::<Ipv6Addr>().is_ok() && is_name(zone),
    }
}

fn is_name(text: &str) -> bool {
    let is_wrong = |c: char| c.is_whitespace() || c.is_control() || "/@[]:".contains(c);
    !text.is_empty() && !text.chars().any(is_wrong)
}

/// From 1 to 65535, in digits.
fn port(digits: &str) -> Option<u16> {
    if digits.is_empty() || !digits.bytes().all(|digit| digit.is_ascii_digit()) {
        return None;
    }
    let number = digits.trim_start_matches('0');
    (1..=5).contains(&number.len()).then(|| number.parse::<u32>().unwrap()).and_then(|port| u16::try_from(port).ok())
}
