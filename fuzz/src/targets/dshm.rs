//! The replies of ngx-distributed-shm, against one regular shape each.

use resty_session_storages::dshm::wire::{Lines, Reply};
use resty_session_storages::pipeline::{MAX_VALUE, Protocol};

use super::memcached::check_split;
use crate::seeds;

pub fn seeds() -> Vec<Vec<u8>> {
    seeds::texts([
        "DONE\r\n",
        "LEN 4\r\nDONE\r\nDONE\r\n",
        "LEN 0\r\n\r\nDONE\r\n",
        "ERROR not_found\r\nDONE\r\n",
        "ERROR malformed_request\r\n",
        "LEN 1\r\na\r\nERROR not_found\r\n",
    ])
}

pub fn run(data: &[u8]) {
    check_split::<Lines>(data);
    assert_eq!(Lines::parse(data).ok().flatten(), whole(data));
}

/// The first reply and its size, if it is whole.
fn whole(data: &[u8]) -> Option<(Reply, usize)> {
    for (text, reply) in [("DONE\r\n", Reply::Done), ("ERROR not_found\r\n", Reply::Absent)] {
        if data.starts_with(text.as_bytes()) {
            return Some((reply, text.len()));
        }
    }
    let rest = data.strip_prefix(b"LEN ")?;
    let count = rest.iter().position(|byte| !byte.is_ascii_digit())?;
    // Zeros may stand before it, as many as a line holds.
    if count == 0 || count > 2042 {
        return None;
    }
    let size = rest[..count]
        .iter()
        .try_fold(0_usize, |size, digit| size.checked_mul(10)?.checked_add(usize::from(digit - b'0')))?;
    let rest = rest[count..].strip_prefix(b"\r\n")?;
    if size > MAX_VALUE || rest.get(size..)?.get(..8)? != b"\r\nDONE\r\n" {
        return None;
    }
    Some((Reply::Value(rest[..size].to_vec()), 4 + count + 2 + size + 8))
}
