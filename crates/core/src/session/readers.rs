//! Readers of untrusted bytes that are not part of the API, for the targets in `fuzz/`.

use super::audiences::{self, Sole, entries};
use super::marks::Verdict;
use super::note::Note;
use super::{Error, record};
use crate::cookie::compression::{InflateError, inflate_up_to};
use crate::cookie::{self, Header, Key, request};
use crate::secret::Secret;
use crate::time::Timestamp;

/// A record's ciphertext and info.
///
/// # Errors
///
/// The text is not a record, or its info is larger than that.
pub fn record(text: Vec<u8>, max_info_size: usize) -> Result<(Vec<u8>, Option<Vec<u8>>), Error> {
    record::decode(text, max_info_size).map(|record| (record.ciphertext, record.info))
}

/// Checks that it is info.
///
/// # Errors
///
/// It is not.
pub fn check_info(info: &[u8]) -> Result<(), Error> {
    audiences::check_info(info)
}

/// The JSON of the info under one name.
pub fn info_of<'a>(info: &'a [u8], name: &[u8]) -> Option<&'a [u8]> {
    audiences::info_of(info, name)
}

/// The info of those names that `keep` takes.
pub fn retain_info(info: &[u8], keep: impl FnMut(&[u8]) -> bool) -> Option<Vec<u8>> {
    audiences::retain_info(info, keep)
}

/// Checks that a payload, once it is saved, opens again with the current audience at `index`.
///
/// # Errors
///
/// It does not.
pub fn check_payload(payload: &[u8], index: Option<usize>) -> Result<(), Error> {
    audiences::check(payload, index)
}

/// The shape of a payload with one audience.
pub fn sole(payload: &[u8]) -> Option<Sole> {
    Sole::of(payload, &entries(payload).ok()?)
}

/// A payload that was taken apart and put together again.
///
/// # Errors
///
/// It is not a payload.
pub fn rejoined(payload: &[u8]) -> Result<Secret, Error> {
    Ok(audiences::join(&entries(payload)?))
}

/// A payload with a sign-in id in each entry that has an audience and lacks one, or `None` if none
/// does.
///
/// # Errors
///
/// It is not a payload.
pub fn with_sign_ins(payload: &[u8], id: &str) -> Result<Option<Secret>, Error> {
    audiences::with_sign_ins(&entries(payload)?, |_| Ok(id.to_owned()))
}

/// Whether the record of a mark revokes a session that was created at that time.
pub fn revokes(mark: Option<&[u8]>, creation_time: Timestamp) -> bool {
    Verdict::of(mark).revokes(creation_time)
}

/// What a note says that was decrypted.
pub fn note(bytes: &[u8]) -> Option<Note> {
    Note::decode(bytes)
}

/// What is encrypted of a note.
pub fn note_bytes(note: &Note) -> Secret {
    note.encode()
}

/// Inflates to `limit` bytes at most.
///
/// # Errors
///
/// The input is not a whole deflate stream, or is one of too many bytes.
pub fn inflate(input: &[u8], limit: usize) -> Result<Secret, InflateError> {
    inflate_up_to(input, limit)
}

/// Encrypts info.
///
/// # Errors
///
/// There is too much of it.
pub fn seal_info(key: &Key, header: &Header, nonce: [u8; 12], info: &[u8]) -> Result<String, cookie::info::Error> {
    cookie::info::seal(key, header, nonce, info)
}

/// Decrypts info.
///
/// # Errors
///
/// It was not made with this key for this header.
pub fn open_info(key: &Key, header: &Header, sealed: &[u8]) -> Result<Vec<u8>, cookie::info::Error> {
    cookie::info::open(key, header, sealed)
}

/// The numbers of a session's chunks in a Cookie header.
pub fn chunk_numbers(cookies: &[u8], name: &str, now: Timestamp) -> Vec<usize> {
    request::chunk_numbers(cookies, name, now).collect()
}

/// The values of the cookies with the names of a session's chunks, from the second to the
/// `count`-th, at most `most` of each name.
pub fn chunk_values<'a>(cookies: &'a [u8], name: &str, count: usize, most: usize) -> Vec<Vec<&'a [u8]>> {
    request::chunk_values(cookies, name, count, most)
}
