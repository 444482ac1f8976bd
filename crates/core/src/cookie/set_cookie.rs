//! Set-Cookie lines: how they are made, and how they are merged into those of a response.

use std::fmt::Write as _;

use super::header::ENCODED_SIZE;
use super::seal::Sealed;
use super::{Error, Header, attributes, chunks};

/// The values of Set-Cookie headers in order, each `name=value` with its attributes.
pub type Lines = Vec<String>;

/// The line that sets a session's first cookie: its header and the start of the payload, if that is
/// kept in cookies.
pub(crate) fn first(name: &str, header: &Header, initial_chunk: &str, attributes: &str) -> String {
    let mut line = String::with_capacity(name.len() + 1 + ENCODED_SIZE + initial_chunk.len() + attributes.len());
    // Writing to a String can't fail.
    let _ = write!(line, "{name}={}{initial_chunk}{attributes}", header.encode());
    line
}

/// The lines that set all cookies of a session whose payload is kept in them, and how many
/// characters of the payload the first one holds.
///
/// # Errors
///
/// [`Error::SizeExceeded`] if the payload needs too many cookies.
pub(crate) fn sealed(name: &str, sealed: &Sealed, attributes: &str) -> Result<(Lines, usize), Error> {
    let parts = chunks::split(name, &sealed.payload)?;
    let mut lines = Vec::with_capacity(parts.len());
    lines.push(first(name, &sealed.header, parts[0], attributes));
    for (number, part) in (2..).zip(&parts[1..]) {
        lines.push(format!("{}={part}{attributes}", chunks::name(name, number)));
    }
    Ok((lines, parts[0].len()))
}

/// The lines that delete the cookies with these numbers.
pub(crate) fn expire(name: &str, numbers: impl IntoIterator<Item = usize>, attributes: &str) -> Lines {
    let expired = attributes::expired(attributes);
    numbers.into_iter().map(|number| format!("{}={expired}", chunks::name(name, number))).collect()
}

/// Merges `lines` into those that are `present`: a line replaces the first one of the same name,
/// the further ones of that name go, and a line of a new name is added at the end. Case counts in
/// names.
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
