//! The text of an owner's sessions.

use resty_session_core::time::Timestamp;
use resty_session_storages::LiveSession;
use resty_session_storages::metadata::{Compact, compact, live};

use crate::obvious;

pub fn seeds() -> Vec<Vec<u8>> {
    let key = |name: char| name.to_string().repeat(43);
    let texts = [
        format!("{0}:BQQDAgE;{0};", key('k')),
        format!("{}:__________;{}:AAAAAAA;", key('a'), key('b')),
        format!("{0}:CQAAAAA;{1}:BQAAAAA;{1};{2};{2}:BwAAAAA;", key('b'), key('a'), key('-')),
        String::new(),
    ];
    texts.map(|text| [b"\x02\0".as_slice(), text.as_bytes()].concat()).to_vec()
}

/// Two bytes for the time, and the text.
pub fn run(data: &[u8]) {
    let Some((time, text)) = data.split_first_chunk::<2>() else { return };
    let now = obvious::number(time);
    check(text, now);
    // A session that expires now has expired.
    for (_, expiry) in sessions(text, now).unwrap_or_default().into_iter().take(3) {
        check(text, expiry);
        check(text, expiry - 1);
    }
}

fn check(text: &[u8], now: u64) {
    let expected = sessions(text, now);
    let at = Timestamp::from_secs(now);
    let found = live(text, at).ok();
    assert_eq!(found.as_deref().map(pairs), expected);
    let Ok(Compact { text: shorter, expiry }) = compact(text, at) else {
        assert!(expected.is_none());
        return;
    };
    assert!(shorter.len() <= text.len());
    assert_eq!(live(&shorter, at).ok().as_deref().map(pairs), expected);
    assert_eq!(expiry.map(Timestamp::as_secs), expected.unwrap().into_iter().map(|(_, expiry)| expiry).max());
}

fn pairs(sessions: &[LiveSession]) -> Vec<(Vec<u8>, u64)> {
    sessions.iter().map(|session| (session.key.clone().into_bytes(), session.expiry.as_secs())).collect()
}

/// The live sessions by key. `None` if the text is damaged.
fn sessions(text: &[u8], now: u64) -> Option<Vec<(Vec<u8>, u64)>> {
    let mut items = obvious::split(text, b';');
    // A semicolon ends each item.
    if !items.pop()?.is_empty() {
        return None;
    }
    let mut sessions: Vec<(Vec<u8>, u64)> = Vec::new();
    for item in items {
        let parts = obvious::split(&item, b':');
        let is_key =
            parts[0].len() == 43 && parts[0].iter().all(|byte| byte.is_ascii_alphanumeric() || b"-_".contains(byte));
        if !is_key {
            return None;
        }
        sessions.retain(|(key, _)| *key != parts[0]);
        match parts.as_slice() {
            [_] => {}
            [key, expiry] if expiry.len() == 7 => {
                sessions.push((key.clone(), obvious::number(&obvious::base64url(expiry)?)))
            }
            _ => return None,
        }
    }
    sessions.retain(|(_, expiry)| *expiry > now);
    sessions.sort();
    Some(sessions)
}
