//! Set-Cookie lines: making them, and merging them into those that a response already has.

use std::fmt::Write as _;

use super::header::ENCODED_SIZE;
use super::seal::Sealed;
use super::{Error, Header, attributes, chunks};

/// The lines of a session in the response, in order: `name=value` with its attributes.
pub type Lines = Vec<String>;

/// Lines for a header alone, or for a header and the payload's start.
pub fn first(name: &str, header: &Header, initial_chunk: &str, attributes: &str) -> String {
    let mut line = String::with_capacity(name.len() + 1 + ENCODED_SIZE + initial_chunk.len() + attributes.len());
    // Writing to a String can't fail.
    let _ = write!(line, "{name}={}{initial_chunk}{attributes}", header.encode());
    line
}

/// Lines for a session whose payload is in its cookies; how much of the payload the first one holds.
pub fn sealed(name: &str, sealed: &Sealed, attributes: &str) -> Result<(Lines, usize), Error> {
    let parts = chunks::split(name, &sealed.payload)?;
    let mut lines = Vec::with_capacity(parts.len());
    lines.push(first(name, &sealed.header, parts[0], attributes));
    for (number, part) in (2..).zip(&parts[1..]) {
        lines.push(format!("{}={part}{attributes}", chunks::name(name, number)));
    }
    Ok((lines, parts[0].len()))
}

/// Lines that clear the cookies with these numbers.
pub fn expire(name: &str, numbers: impl IntoIterator<Item = usize>, attributes: &str) -> Lines {
    let expired = attributes::expired(attributes);
    numbers.into_iter().map(|number| format!("{}={expired}", chunks::name(name, number))).collect()
}

/// Puts `lines` among `present` ones: a cookie of the same name is replaced where it stands, others are added
/// at the end, and none stands twice. Names are compared to the letter.
pub fn merge<L: AsRef<[u8]>>(present: &mut Vec<L>, lines: impl IntoIterator<Item = L>) {
    for line in lines {
        let is_same = |other: &L| name_of(other.as_ref()) == name_of(line.as_ref());
        let Some(first) = present.iter().position(is_same) else {
            present.push(line);
            continue;
        };
        let mut at = 0;
        present.retain(|other| {
            at += 1;
            at <= first + 1 || name_of(other.as_ref()) != name_of(line.as_ref())
        });
        present[first] = line;
    }
}

fn name_of(line: &[u8]) -> &[u8] {
    line.split(|&byte| byte == b'=').next().unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn merging_replaces_by_name_and_keeps_what_others_set() {
        let mut present =
            [&b"app=1; Path=/"[..], b"session=old", b"session22=theirs", b"flag"].map(<[u8]>::to_vec).to_vec();
        present.push(b"session=older".to_vec());
        merge(&mut present, [&b"session=new; Path=/"[..], b"session2=more"].map(<[u8]>::to_vec));
        let expected: [&[u8]; 5] =
            [b"app=1; Path=/", b"session=new; Path=/", b"session22=theirs", b"flag", b"session2=more"];
        assert_eq!(present, expected);
    }
}
