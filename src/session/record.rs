//! A stored record: a JSON array of the payload's base64url text and, where there is any, the info's:
//! `["ciphertext"]` or `["ciphertext","info"]`, info being base64url of JSON.

use super::Error;
use crate::cookie::base64url;

pub struct Record {
    /// base64url, as it was sealed.
    pub ciphertext: String,
    /// JSON text, `{audience: {…}}`.
    pub info: Option<Vec<u8>>,
}

pub fn encode(ciphertext: &str, info: Option<&[u8]>) -> String {
    // base64url needs no escaping in JSON.
    match info {
        Some(info) => format!("[\"{ciphertext}\",\"{}\"]", base64url::encode(info)),
        None => format!("[\"{ciphertext}\"]"),
    }
}

pub fn decode(text: &[u8]) -> Result<Record, Error> {
    let mut parts = serde_json::from_slice::<Vec<Option<String>>>(text).map_err(Error::RecordFormat)?.into_iter();
    let ciphertext = parts.next().flatten().ok_or(Error::RecordShape)?;
    let info = parts.next().flatten();
    let info = info.map(|info| base64url::decode(info.as_bytes()).map_err(Error::InfoEncoding)).transpose()?;
    Ok(Record { ciphertext, info })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn records_come_back() {
        let record = decode(encode("AAAA", Some(b"{}")).as_bytes()).unwrap();
        assert_eq!((record.ciphertext.as_str(), record.info.as_deref()), ("AAAA", Some(&b"{}"[..])));
        assert!(decode(encode("AAAA", None).as_bytes()).unwrap().info.is_none());
    }

    #[test]
    fn what_is_no_record_is_an_error() {
        for text in ["", "{}", "null", "[1]", "[\"a\"", "true"] {
            let error = decode(text.as_bytes()).err().unwrap().to_string();
            assert!(error.starts_with("unable to json decode session ("), "{error}");
        }
        for text in ["[]", "[null]"] {
            assert!(matches!(decode(text.as_bytes()), Err(Error::RecordShape)));
        }
        assert!(matches!(decode(b"[\"a\",\"!\"]"), Err(Error::InfoEncoding(_))));
    }
}
