//! The reply to `CLUSTER SLOTS`, and where a key is, against a search of all ranges.

use redis::Value;
use resty_session_storages::network::Node;
use resty_session_storages::redis::slots::{SlotMap, redirected, slot};

use crate::seeds;

pub fn seeds() -> Vec<Vec<u8>> {
    let reply = |text: &str| text.replace(' ', "\r\n");
    seeds::texts([
        &reply("*2 *4 :100 :16383 *2 $1 b :7 *2 $1 c :8 *3 :0 :98 *2 $0  :9 "),
        &reply("*1 *3 :0 :16383 *3 $9 127.0.0.1 :7000 $1 x "),
        &reply("*1 *3 :0 :16384 *2 $1 a :7 "),
        "[::1]:7",
        "a{b}c",
    ])
}

pub fn run(data: &[u8]) {
    let asked = Node { host: "asked".into(), port: 1 };
    assert!(slot(data) < 16384);
    if let Ok(text) = std::str::from_utf8(data)
        && let Some(node) = redirected(text, &asked)
    {
        assert!(text.contains(&node.host) || node.host == "asked");
    }
    let Ok(reply) = redis::parse_redis_value(data) else { return };
    let Some(map) = SlotMap::read(&reply, &asked) else { return };
    let ranges = ranges(&reply);
    assert_eq!(map.is_empty(), ranges.is_empty());
    // Ranges that overlap, which no server sends, may say anything.
    let overlap =
        |(at, one): (usize, &(i64, i64))| ranges[at + 1..].iter().any(|other| one.0 <= other.1 && other.0 <= one.1);
    if ranges.iter().any(|(first, last)| first > last) || ranges.iter().enumerate().any(overlap) {
        return;
    }
    for slot in ranges.iter().flat_map(|(first, last)| [*first, *last, first - 1, last + 1]) {
        if let Ok(slot) = u16::try_from(slot) {
            let is_known = ranges.iter().any(|(first, last)| (*first..=*last).contains(&i64::from(slot)));
            assert_eq!(map.master(slot).is_some(), is_known, "slot {slot}");
        }
    }
    assert!(map.masters().into_iter().all(|node| map.contains(node)));
}

/// The first and last slot of each range.
fn ranges(reply: &Value) -> Vec<(i64, i64)> {
    let Value::Array(ranges) = reply else { panic!("it is not an array") };
    let range = |range: &Value| match range {
        Value::Array(parts) => match parts.as_slice() {
            [Value::Int(first), Value::Int(last), _, ..] => (*first, *last),
            _ => panic!("it is not a range"),
        },
        _ => panic!("it is not an array"),
    };
    ranges.iter().map(range).collect()
}
