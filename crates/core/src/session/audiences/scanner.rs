//! Scans JSON just so far that an audience's parts are found.

use std::borrow::Cow;

use serde_bytes::ByteBuf;

use super::{Entry, Member};
use crate::session::Error;
use crate::session::name::Name;

/// A place in a text.
pub(super) struct Scanner<'a> {
    text: &'a [u8],
    at: usize,
}

impl<'a> Scanner<'a> {
    pub(super) fn new(text: &'a [u8]) -> Self {
        Self { text, at: 0 }
    }

    pub(super) fn peek(&mut self) -> Option<u8> {
        while let Some(byte) = self.text.get(self.at) {
            if !matches!(byte, b' ' | b'\t' | b'\n' | b'\r') {
                return Some(*byte);
            }
            self.at += 1;
        }
        None
    }

    pub(super) fn accept(&mut self, byte: u8) -> bool {
        let found = self.peek() == Some(byte);
        self.at += usize::from(found);
        found
    }

    pub(super) fn demand(&mut self, byte: u8, problem: &'static str) -> Result<(), Error> {
        if self.accept(byte) { Ok(()) } else { Err(Error::PayloadFormat(problem)) }
    }

    pub(super) fn entry(&mut self) -> Result<Entry<'a>, Error> {
        self.demand(b'[', "array of an audience expected")?;
        let start = self.at - 1;
        let data = self.value()?;
        let audience = self.name()?;
        let subject = self.name()?;
        let after = self.at;
        while self.accept(b',') {
            self.value()?;
        }
        let more = &self.text[after..self.at];
        self.demand(b']', "end of an audience's array expected")?;
        Ok(Entry { text: &self.text[start..self.at], data, audience, subject, more })
    }

    /// The values of an array, as they were written.
    pub(super) fn values(&mut self) -> Result<Vec<&'a [u8]>, Error> {
        self.demand(b'[', "array expected")?;
        let mut values = vec![self.value()?];
        while self.accept(b',') {
            values.push(self.value()?);
        }
        Ok(values)
    }

    /// The next element of an entry, if there is one.
    pub(super) fn name(&mut self) -> Result<Option<Name<'a>>, Error> {
        if !self.accept(b',') {
            return Ok(None);
        }
        match self.value()? {
            b"null" | b"false" => Ok(None),
            text @ [b'"', ..] => unescape(text).map(|text| Some(Name::Text(text))),
            other => Ok(Some(Name::from_json(other))),
        }
    }

    pub(super) fn member(&mut self) -> Result<Member<'a>, Error> {
        let start = self.at;
        self.string()?;
        self.at += 1;
        let audience = unescape(&self.text[start..self.at])?;
        self.demand(b':', "colon expected")?;
        let value = self.value()?;
        Ok(Member { text: self.text[start..self.at].trim_ascii_end(), audience, value })
    }

    /// Skips one value of any kind and returns its text.
    pub(super) fn value(&mut self) -> Result<&'a [u8], Error> {
        self.peek().ok_or(Error::PayloadFormat("value expected"))?;
        let (text, start) = (self.text, self.at);
        let (mut at, mut depth) = (start, 0_usize);
        while let Some(byte) = text.get(at) {
            match byte {
                b'"' => at = closing_quote(text, at)?,
                b'[' | b'{' => depth += 1,
                b']' | b'}' if depth == 0 => break,
                b']' | b'}' => depth -= 1,
                b',' if depth == 0 => break,
                _ => {}
            }
            at += 1;
        }
        self.at = at;
        match text[start..at].trim_ascii_end() {
            b"" => Err(Error::PayloadFormat("value expected")),
            _ if depth > 0 => Err(Error::PayloadFormat("unexpected end of text")),
            text => Ok(text),
        }
    }

    /// Skips a string up to its closing quote.
    fn string(&mut self) -> Result<(), Error> {
        self.at = closing_quote(self.text, self.at)?;
        Ok(())
    }
}

/// The place of the closing quote of the string whose opening quote is at `at`.
fn closing_quote(text: &[u8], mut at: usize) -> Result<usize, Error> {
    const UNCLOSED: Error = Error::PayloadFormat("unexpected end of a string");
    loop {
        let rest = text.get(at + 1..).unwrap_or_default();
        let Some(found) = find_quote_or_escape(rest) else { return Err(UNCLOSED) };
        at += 1 + found;
        if text[at] == b'"' {
            return Ok(at);
        }
        at += 1;
    }
}

/// Looks at eight bytes at a time first, because most strings are so short that starting a vector
/// search takes longer.
pub(super) fn find_quote_or_escape(text: &[u8]) -> Option<usize> {
    const SHORT: usize = 32;
    let (near, far) = text.split_at(text.len().min(SHORT));
    let (words, rest) = near.as_chunks::<8>();
    for (number, word) in words.iter().enumerate() {
        let word = u64::from_le_bytes(*word);
        let found = first_bits(word, b'"') | first_bits(word, b'\\');
        if found != 0 {
            return Some(8 * number + found.trailing_zeros() as usize / 8);
        }
    }
    let found = rest.iter().position(|byte| matches!(byte, b'"' | b'\\')).map(|found| 8 * words.len() + found);
    found.or_else(|| memchr::memchr2(b'"', b'\\', far).map(|found| near.len() + found))
}

/// A word whose lowest set bit is in the lowest byte of `word` that equals `byte`; zero if no byte
/// does.
fn first_bits(word: u64, byte: u8) -> u64 {
    const EACH: u64 = u64::from_ne_bytes([1; 8]);
    let zeroed = word ^ (EACH * u64::from(byte));
    zeroed.wrapping_sub(EACH) & !zeroed & (EACH << 7)
}

/// The bytes of a JSON string, quotes included in the text.
fn unescape(text: &[u8]) -> Result<Cow<'_, [u8]>, Error> {
    match text {
        [b'"', inner @ .., b'"'] if !inner.contains(&b'\\') => Ok(Cow::Borrowed(inner)),
        text => serde_json::from_slice::<ByteBuf>(text)
            .map(|name| Cow::Owned(name.into_vec()))
            .map_err(|_| Error::PayloadFormat("invalid string")),
    }
}
