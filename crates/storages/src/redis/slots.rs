//! Which nodes of a Cluster hold which slots.

use std::collections::HashMap;

use redis::Value;

use crate::network::Node;

/// How many slots a Cluster has.
const SLOTS: u16 = 16384;

/// The nodes of each slot, as one node has told, and what others have said since.
#[derive(Clone, Default)]
pub struct SlotMap {
    /// In the order of their slots.
    ranges: Vec<Range>,
    /// Slots that have moved.
    moved: HashMap<u16, Node>,
}

#[derive(Clone)]
struct Range {
    first: u16,
    last: u16,
    master: Node,
    replicas: Vec<Node>,
}

/// Returns the slot of a key: that of the part in braces, if there is one.
pub fn slot(key: &[u8]) -> u16 {
    let tag = key.iter().position(|byte| *byte == b'{').and_then(|open| {
        let rest = &key[open + 1..];
        rest.iter().position(|byte| *byte == b'}').map(|close| &rest[..close])
    });
    let hashed = tag.filter(|tag| !tag.is_empty()).unwrap_or(key);
    crc16::State::<crc16::XMODEM>::calculate(hashed) % SLOTS
}

impl SlotMap {
    /// Reads the reply to `CLUSTER SLOTS` of a node. Returns `None` if it is not one.
    pub fn read(reply: &Value, asked: &Node) -> Option<Self> {
        let Value::Array(ranges) = reply else { return None };
        let mut ranges = ranges.iter().map(|range| Range::read(range, asked)).collect::<Option<Vec<_>>>()?;
        ranges.sort_by_key(|range| range.first);
        Some(Self { ranges, moved: HashMap::new() })
    }

    /// Whether no slot is known.
    pub fn is_empty(&self) -> bool {
        self.ranges.is_empty()
    }

    /// Returns the node that a slot is written to.
    pub fn master(&self, slot: u16) -> Option<&Node> {
        self.moved.get(&slot).or_else(|| self.range(slot).map(|range| &range.master))
    }

    /// Returns the nodes that have copies of a slot.
    pub fn replicas(&self, slot: u16) -> &[Node] {
        match self.moved.contains_key(&slot) {
            true => &[],
            false => self.range(slot).map_or(&[], |range| &range.replicas),
        }
    }

    /// Notes that a slot has moved.
    pub fn note_move(&mut self, slot: u16, to: Node) {
        self.moved.insert(slot, to);
    }

    /// Returns all masters, each once.
    pub fn masters(&self) -> Vec<&Node> {
        let mut masters: Vec<&Node> = Vec::new();
        for range in &self.ranges {
            if !masters.contains(&&range.master) {
                masters.push(&range.master);
            }
        }
        masters
    }

    /// Whether a node has any slot, as its master or as a replica.
    pub fn contains(&self, node: &Node) -> bool {
        let has = |range: &Range| range.master == *node || range.replicas.contains(node);
        self.ranges.iter().any(has) || self.moved.values().any(|to| to == node)
    }

    fn range(&self, slot: u16) -> Option<&Range> {
        let at = self.ranges.partition_point(|range| range.last < slot);
        self.ranges.get(at).filter(|range| range.first <= slot)
    }
}

impl Range {
    fn read(range: &Value, asked: &Node) -> Option<Self> {
        let Value::Array(parts) = range else { return None };
        let [Value::Int(first), Value::Int(last), nodes @ ..] = parts.as_slice() else { return None };
        let number = |slot: i64| u16::try_from(slot).ok().filter(|slot| *slot < SLOTS);
        let (first, last) = (number(*first)?, number(*last)?);
        let mut nodes = nodes.iter().map(|node| read_node(node, asked)).collect::<Option<Vec<_>>>()?.into_iter();
        let master = nodes.next()?;
        Some(Self { first, last, master, replicas: nodes.collect() })
    }
}

fn read_node(node: &Value, asked: &Node) -> Option<Node> {
    let Value::Array(parts) = node else { return None };
    let [host, Value::Int(port), ..] = parts.as_slice() else { return None };
    let host = match host {
        Value::BulkString(host) => std::str::from_utf8(host).ok()?,
        Value::SimpleString(host) => host,
        Value::Nil => "",
        _ => return None,
    };
    Some(at(host, u16::try_from(*port).ok()?, asked))
}

/// A node that does not know its name is where it was asked.
fn at(host: &str, port: u16, asked: &Node) -> Node {
    let host = if matches!(host, "" | "?") { &asked.host } else { host };
    Node { host: host.to_owned(), port }
}

/// Reads the address in a redirection, `host:port`. IPv6 addresses have no brackets there.
pub fn redirected(address: &str, asked: &Node) -> Option<Node> {
    let (host, port) = address.rsplit_once(':')?;
    Some(at(host.trim_start_matches('[').trim_end_matches(']'), port.parse().ok()?, asked))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn node(host: &str, port: u16) -> Node {
        Node { host: host.into(), port }
    }

    fn map(reply: &str) -> Option<SlotMap> {
        SlotMap::read(&redis::parse_redis_value(reply.replace(' ', "\r\n").as_bytes()).unwrap(), &node("asked", 1))
    }

    #[test]
    fn a_key_has_the_slot_of_its_tag() {
        assert_eq!(slot(b"123456789"), 0x31c3);
        assert_eq!(slot(b"{123456789}:x"), 0x31c3);
        assert_eq!(slot(b"}x{123456789}{a}"), 0x31c3);
        assert_ne!(slot(b"{}123456789"), slot(b"{}"));
        for key in [&b""[..], b"{", b"}", b"{}", b"a{b"] {
            assert!(slot(key) < SLOTS);
        }
    }

    #[test]
    fn each_slot_has_its_nodes() {
        // The second range comes first, as it may.
        let reply = "*2 *4 :100 :16383 *2 $1 b :7 *2 $1 c :8 *3 :0 :98 *2 $0  :9 ";
        let mut map = map(reply).unwrap();
        assert_eq!(map.master(0), Some(&node("asked", 9)));
        assert_eq!(map.master(98), map.master(0));
        assert_eq!(map.master(99), None);
        assert_eq!((map.master(100), map.master(16383)), (Some(&node("b", 7)), Some(&node("b", 7))));
        assert_eq!(map.replicas(5000), [node("c", 8)]);
        assert!(map.contains(&node("c", 8)) && !map.contains(&node("d", 8)));
        map.note_move(5000, node("d", 8));
        assert_eq!((map.master(5000), map.replicas(5000)), (Some(&node("d", 8)), &[][..]));
        assert_eq!(map.master(5001), Some(&node("b", 7)));
        assert_eq!(map.masters(), [&node("asked", 9), &node("b", 7)]);
    }

    #[test]
    fn what_is_not_a_slot_map_is_refused() {
        for reply in [
            "+OK ",
            "*1 :1 ",
            "*1 *2 :0 :1 ",
            "*1 *3 :0 :16384 *2 $1 a :7 ",
            "*1 *3 :-1 :1 *2 $1 a :7 ",
            "*1 *3 :0 :1 *1 $1 a ",
        ] {
            assert!(map(reply).is_none(), "{reply}");
        }
        assert!(map("*0 ").unwrap().is_empty());
    }

    #[test]
    fn a_redirection_names_an_address() {
        let asked = node("asked", 1);
        for (address, host) in
            [("a.b:7", "a.b"), ("::1:7", "::1"), ("[::1]:7", "::1"), (":7", "asked"), ("?:7", "asked")]
        {
            assert_eq!(redirected(address, &asked), Some(node(host, 7)), "{address}");
        }
        assert!(redirected("a", &asked).is_none() && redirected("a:b", &asked).is_none());
    }
}
