//! A stored record: a JSON array of the payload's base64url text and, if there is info, its
//! base64url text: `["ciphertext"]` or `["ciphertext","info"]`.

use super::{Error, info};
use crate::cookie::base64url;
use crate::cookie::header::MAX_DATA_SIZE;

/// The parts of a record.
pub(super) struct Record {
    /// The ciphertext's base64url text, as it was sealed.
    pub(super) ciphertext: Vec<u8>,
    /// JSON, `{audience: {…}}`.
    pub(super) info: Option<Vec<u8>>,
}

/// A record of a ciphertext's base64url text and of info.
pub(super) fn encode(ciphertext: &[u8], info: Option<&[u8]>) -> Vec<u8> {
    // base64url needs no escaping in JSON.
    match info {
        Some(info) => [b"[\"", ciphertext, b"\",\"", base64url::encode(info).as_bytes(), b"\"]"].concat(),
        None => [b"[\"", ciphertext, b"\"]"].concat(),
    }
}

/// Takes a record apart. Refuses info that is too large even if it is sealed.
///
/// # Errors
///
/// The text is not a record. Anybody who can write to the storage may have put it there.
pub(super) fn decode(mut text: Vec<u8>, max_info_size: usize) -> Result<Record, Error> {
    if is_one_plain_string(&text) {
        text.truncate(text.len() - 2);
        text.drain(..2);
        return Ok(Record { ciphertext: text, info: None });
    }
    /// More than any JSON library puts around the two texts.
    const PUNCTUATION: usize = 1024;
    let longest_info = base64url::encoded_size(info::sealed_size(max_info_size));
    if text.len() > MAX_DATA_SIZE + longest_info + PUNCTUATION {
        return Err(Error::InfoSize(max_info_size));
    }
    let mut parts = serde_json::from_slice::<Vec<Option<String>>>(&text).map_err(Error::RecordFormat)?.into_iter();
    let ciphertext = parts.next().flatten().ok_or(Error::RecordShape)?.into_bytes();
    let info = parts.next().flatten();
    if info.as_ref().is_some_and(|info| info.len() > longest_info) {
        return Err(Error::InfoSize(max_info_size));
    }
    let info = info.map(|info| base64url::decode(info.as_bytes())).transpose();
    let info = info.map_err(|error| Error::InfoEncoding(Box::new(error)))?;
    Ok(Record { ciphertext, info })
}

/// Whether it is `["…"]`, as [`encode`] mostly makes it. Every open comes here, and parsing takes
/// longer.
fn is_one_plain_string(text: &[u8]) -> bool {
    let inner = text.strip_prefix(b"[\"").and_then(|rest| rest.strip_suffix(b"\"]"));
    inner.is_some_and(|inner| memchr::memchr2(b'"', b'\\', inner).is_none())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn records_are_read_as_they_were_written() {
        for info in [Some(&b"{}"[..]), None] {
            let record = decode(encode(b"AAAA", info), 100).unwrap();
            assert_eq!((record.ciphertext.as_slice(), record.info.as_deref()), (&b"AAAA"[..], info));
        }
        for text in [" [ \"AAAA\" ]", "[\"AA\\u0041A\"]", "[\"AAAA\",null]"] {
            let record = decode(text.into(), 100).unwrap();
            assert_eq!((record.ciphertext.as_slice(), record.info), (&b"AAAA"[..], None), "{text}");
        }
    }

    #[test]
    fn other_text_than_a_record_is_an_error() {
        for text in ["", "{}", "null", "[1]", "[\"a\"", "[\"]", "true"] {
            let error = decode(text.into(), 100).err().unwrap().to_string();
            assert!(error.starts_with("unable to json decode session ("), "{error}");
        }
        for text in ["[]", "[null]"] {
            assert!(matches!(decode(text.into(), 100), Err(Error::RecordShape)));
        }
        assert!(matches!(decode(b"[\"a\",\"!\"]".to_vec(), 100), Err(Error::InfoEncoding(_))));
    }

    #[test]
    fn info_is_limited_before_it_is_decoded() {
        let record = |size| encode(b"AAAA", Some(&vec![b' '; size]));
        let largest = info::sealed_size(100);
        assert!(decode(record(largest), 100).is_ok());
        for record in
            [record(largest + 1), record(20_000_000), [&b"["[..], &b"null,".repeat(4_000_000), b"null]"].concat()]
        {
            assert!(matches!(decode(record, 100), Err(Error::InfoSize(100))));
        }
    }
}
