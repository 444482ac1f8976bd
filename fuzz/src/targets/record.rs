//! A stored record, against serde_json.

use resty_session_core::session::readers;
use serde_json::Value;

use crate::{obvious, seeds};

const MAX_INFO: usize = 1000;

pub fn seeds() -> Vec<Vec<u8>> {
    [seeds::records(), seeds::texts([r#" ["AA\u0041A",null] "#, r#"["AAAA","e30"]"#, r#"["AAAA","e30",null,"x"]"#])]
        .concat()
}

pub fn run(data: &[u8]) {
    let found = readers::record(data.to_vec(), MAX_INFO).ok();
    let Ok(json) = serde_json::from_slice::<Value>(data) else {
        // One that opens has a ciphertext of base64url, and then it is JSON.
        assert!(found.is_none_or(|(ciphertext, info)| info.is_none() && obvious::base64url(&ciphertext).is_none()));
        return;
    };
    if let Some((_, Some(info))) = &found {
        // Sealed info is longer than plain info.
        assert!(info.len() <= 2 * MAX_INFO);
    }
    match (parts(&json), found) {
        (Some(expected), Some(found)) => assert_eq!(found, expected),
        (Some((_, info)), None) => assert!(info.is_some_and(|info| info.len() > MAX_INFO)),
        (None, found) => assert!(found.is_none()),
    }
}

/// The ciphertext and the info.
fn parts(json: &Value) -> Option<(Vec<u8>, Option<Vec<u8>>)> {
    let parts = json.as_array()?;
    if !parts.iter().all(|part| part.is_string() || part.is_null()) {
        return None;
    }
    let ciphertext = parts.first()?.as_str()?.as_bytes().to_vec();
    match parts.get(1).and_then(Value::as_str) {
        Some(info) => Some((ciphertext, Some(obvious::base64url(info.as_bytes())?))),
        None => Some((ciphertext, None)),
    }
}
