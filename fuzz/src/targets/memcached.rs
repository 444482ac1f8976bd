//! memcached's replies, against a parser of whole lines and words.

use resty_session_core::time::Seconds;
use resty_session_storages::memcached::wire::{Meta, Reply, Ttl};
use resty_session_storages::pipeline::{MAX_LINE, MAX_VALUE, Protocol};

use crate::obvious::split;
use crate::seeds;

pub fn seeds() -> Vec<Vec<u8>> {
    seeds::texts([
        "HD\r\n",
        "VA 2 ka%3Ab t60 s2 c7\r\n\r\n\r\nEN\r\n",
        "HD t-1\r\nNF\r\n",
        "NS\r\nEX\r\n",
        "SERVER_ERROR out of memory\r\n",
        "CLIENT_ERROR bad data chunk\r\n",
        "ERROR Too many open connections\r\n",
        "VA 1\r\nab\r\n",
        "MN\r\n",
    ])
}

pub fn run(data: &[u8]) {
    let found = Meta::parse(data);
    check_split::<Meta>(data);
    match (&found, whole(data)) {
        (Ok(Some((reply, size))), Some((expected, expected_size))) => {
            assert_eq!(*size, expected_size);
            assert!(is_same(reply, &expected), "{reply:?}, but expected {expected:?}");
        }
        (_, Some((expected, _))) => panic!("expected {expected:?}"),
        // It takes more than the obvious parser, which knows what memcached sends, but never more
        // bytes than there are.
        (Ok(Some((_, size))), None) => assert!(*size <= data.len() && data[..*size].ends_with(b"\r\n")),
        _ => {}
    }
}

/// More bytes change neither a reply that is whole nor an error.
pub fn check_split<P: Protocol<Reply: PartialEq + std::fmt::Debug>>(data: &[u8]) {
    let all = P::parse(data);
    let near_the_end = data.len().saturating_sub(8)..data.len();
    for end in (0..data.len().min(64)).chain(near_the_end) {
        match (P::parse(&data[..end]), &all) {
            (Ok(None), _) | (Err(_), Err(_)) => {}
            (Ok(part), Ok(all)) => assert_eq!(part, *all, "after {end} bytes"),
            (part, all) => panic!("{part:?} after {end} bytes, {all:?} in the end"),
        }
    }
    assert!(all.is_err() || data.len() < MAX_LINE || data.windows(2).take(MAX_LINE).any(|pair| pair == b"\r\n"));
}

#[derive(Debug)]
enum Expected {
    Done(Info),
    Value(Vec<u8>, Info),
    Absent,
    NotStored,
    Changed,
    Failed(String),
}

/// Time to live, size and cas.
type Info = (Option<Ttl>, usize, u64);

/// The first reply and its size, if memcached could send it and it is whole.
fn whole(data: &[u8]) -> Option<(Expected, usize)> {
    let end = data.windows(2).take(MAX_LINE - 1).position(|pair| pair == b"\r\n")?;
    let line = std::str::from_utf8(&data[..end]).ok()?;
    if let Some(cause) = line.strip_prefix("SERVER_ERROR ").filter(|cause| cause.trim() == *cause && !cause.is_empty())
    {
        return Some((Expected::Failed(cause.to_owned()), end + 2));
    }
    let words: Vec<Vec<u8>> = split(line.as_bytes(), b' ');
    let reply = match (words[0].as_slice(), words.len()) {
        (b"EN" | b"NF", 1) => Expected::Absent,
        (b"NS", 1) => Expected::NotStored,
        (b"EX", 1) => Expected::Changed,
        (b"HD", _) => Expected::Done(info(&words[1..])?),
        (b"VA", 2..) => {
            let size = digits(&words[1]).filter(|size| *size <= MAX_VALUE as u64)? as usize;
            let (start, after) = (end + 2, end + 2 + size);
            let value = data.get(start..after)?.to_vec();
            if data.get(after..after + 2)? != b"\r\n" {
                return None;
            }
            return Some((Expected::Value(value, info(&words[2..])?), after + 2));
        }
        _ => return None,
    };
    Some((reply, end + 2))
}

fn digits(text: &[u8]) -> Option<u64> {
    if text.is_empty() || !text.iter().all(u8::is_ascii_digit) {
        return None;
    }
    text.iter().try_fold(0_u64, |number, digit| number.checked_mul(10)?.checked_add(u64::from(digit - b'0')))
}

fn info(flags: &[Vec<u8>]) -> Option<Info> {
    let mut info = (None, 0, 0);
    for flag in flags {
        match flag.as_slice() {
            b"t-1" => info.0 = Some(Ttl::Endless),
            [b't', ttl @ ..] => info.0 = Some(Ttl::Seconds(Seconds::from_secs(digits(ttl)?))),
            [b's', size @ ..] => info.1 = digits(size)? as usize,
            [b'c', cas @ ..] => info.2 = digits(cas)?,
            [b'k', name @ ..] if !name.is_empty() && name.iter().all(u8::is_ascii_graphic) => {}
            _ => return None,
        }
    }
    Some(info)
}

fn is_same(reply: &Reply, expected: &Expected) -> bool {
    match (reply, expected) {
        (Reply::Done(info), Expected::Done(other)) => (info.ttl, info.size, info.cas) == *other,
        (Reply::Value(value, info), Expected::Value(expected, other)) => {
            value == expected && (info.ttl, info.size, info.cas) == *other
        }
        (Reply::Absent, Expected::Absent) => true,
        (Reply::NotStored, Expected::NotStored) => true,
        (Reply::Changed, Expected::Changed) => true,
        (Reply::Failed(cause), Expected::Failed(expected)) => cause == expected,
        _ => false,
    }
}
