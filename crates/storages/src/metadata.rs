//! The text in which some storages keep an owner's sessions. Items are appended to it, and now and
//! then it is compacted.
//!
//! An item is `key:expiry;`, or `key;`, which takes the session out. A key is 43 characters of
//! base64url. An expiry is the base64url of 5 little-endian bytes, in seconds since the epoch. If a
//! key has several items, the last one counts. lua-resty-session reads and writes the same text.

use std::collections::BTreeMap;
use std::sync::Arc;

use super::{Delete, EXPIRY_BYTES, Error, KEY_SIZE, LiveSession, MAX_EXPIRY, Owner, Set};
use resty_session_core::cookie::base64url;
use resty_session_core::secret::show_only;
use resty_session_core::time::Timestamp;

/// Characters of an expiry.
const EXPIRY_SIZE: usize = base64url::encoded_size(EXPIRY_BYTES);

/// Returns the items that storing a record appends: its own, and the one that takes the replaced
/// record out.
///
/// # Errors
///
/// One of the keys is not a valid session key, which would damage the whole text.
pub fn written(set: &Set) -> Result<Vec<u8>, Error> {
    let mut text = note(&set.key, set.expiry())?;
    if let Some(old_key) = &set.old_key {
        text.append(&mut deleted(old_key)?);
    }
    Ok(text)
}

/// What deleting many records changes, so that the text of each owner is rewritten once.
pub struct Departures {
    /// The records, without owners.
    pub records: Vec<Delete>,
    /// What each of their owners loses.
    pub owners: Vec<Departure>,
}

/// The sessions that an owner loses.
pub struct Departure {
    /// The cookie's name.
    pub name: Arc<str>,
    /// Whose sessions they are.
    pub owner: Owner,
    /// The items that take them out.
    pub items: Vec<u8>,
    /// When it is asked.
    pub current_time: Timestamp,
}

/// Gathers what deleting these records changes.
///
/// # Errors
///
/// One of the keys is not a valid session key.
pub fn departures(deletes: &[Delete]) -> Result<Departures, Error> {
    let records = deletes.iter().map(|delete| Delete { owners: Vec::new(), ..delete.clone() }).collect();
    let mut owners: Vec<Departure> = Vec::new();
    for Delete { name, key, current_time, owners: of_record } in deletes {
        for owner in of_record {
            let mut item = deleted(key)?;
            match owners.iter_mut().find(|known| known.owner == *owner && known.name == *name) {
                Some(known) => known.items.append(&mut item),
                None => owners.push(Departure {
                    name: name.clone(),
                    owner: owner.clone(),
                    items: item,
                    current_time: *current_time,
                }),
            }
        }
    }
    Ok(Departures { records, owners })
}

/// Returns the item that takes a session out.
///
/// # Errors
///
/// The key is not a valid session key.
pub fn deleted(key: &str) -> Result<Vec<u8>, Error> {
    if !is_key(key.as_bytes()) {
        return Err(Error::Server(format!("metadata needs keys of {KEY_SIZE} characters of base64url")));
    }
    Ok(format!("{key};").into_bytes())
}

fn note(key: &str, expiry: Timestamp) -> Result<Vec<u8>, Error> {
    let mut text = deleted(key)?;
    text.pop();
    text.push(b':');
    text.extend_from_slice(
        base64url::encode(&expiry.min(MAX_EXPIRY).as_secs().to_le_bytes()[..EXPIRY_BYTES]).as_bytes(),
    );
    text.push(b';');
    Ok(text)
}

/// Returns the sessions that have not expired at `current_time`, sorted by key.
///
/// # Errors
///
/// The text is damaged; the error says where.
pub fn live(text: &[u8], current_time: Timestamp) -> Result<Vec<LiveSession>, Error> {
    let mut latest = BTreeMap::new();
    let mut rest = text;
    while !rest.is_empty() {
        let item = item(&mut rest).ok_or_else(|| {
            let offset = text.len() - rest.len();
            Error::Server(format!("invalid metadata at byte {offset}"))
        })?;
        latest.insert(item.key, item.expiry);
    }
    // A session that expires now has expired.
    let live = latest.into_iter().filter_map(|(key, expiry)| Some((key, expiry.filter(|at| *at > current_time)?)));
    Ok(live.map(|(key, expiry)| LiveSession { key: key.to_owned(), expiry }).collect())
}

/// A text with one item for each live session.
#[derive(PartialEq, Eq)]
pub struct Compact {
    /// The items, one behind the other.
    pub text: Vec<u8>,
    /// When the last of its sessions expires; `None` if there are no sessions.
    pub expiry: Option<Timestamp>,
}

show_only!(Compact { expiry });

/// Returns the text with one item for each session that has not expired at `current_time`.
///
/// # Errors
///
/// The text is damaged; the error says where.
pub fn compact(text: &[u8], current_time: Timestamp) -> Result<Compact, Error> {
    let live = live(text, current_time)?;
    let mut compact = Compact { text: Vec::with_capacity(live.len() * (KEY_SIZE + EXPIRY_SIZE + 2)), expiry: None };
    for LiveSession { key, expiry } in live {
        compact.text.append(&mut note(&key, expiry)?);
        compact.expiry = compact.expiry.max(Some(expiry));
    }
    Ok(compact)
}

struct Item<'a> {
    key: &'a str,
    /// `None` takes the session out.
    expiry: Option<Timestamp>,
}

/// Removes the first item from the text and returns it, or `None` if it is not valid.
fn item<'a>(text: &mut &'a [u8]) -> Option<Item<'a>> {
    let (key, rest) = text.split_at_checked(KEY_SIZE).filter(|(key, _)| is_key(key))?;
    let key = str::from_utf8(key).ok()?;
    let (separator, rest) = rest.split_first()?;
    match separator {
        b';' => {
            *text = rest;
            Some(Item { key, expiry: None })
        }
        b':' => {
            let (packed, rest) = rest.split_at_checked(EXPIRY_SIZE)?;
            let mut bytes = [0; 8];
            base64url::decode_exact(packed, &mut bytes[..EXPIRY_BYTES]).ok()?;
            *text = rest.strip_prefix(b";")?;
            Some(Item { key, expiry: Some(Timestamp::from_secs(u64::from_le_bytes(bytes))) })
        }
        _ => None,
    }
}

fn is_key(key: &[u8]) -> bool {
    key.len() == KEY_SIZE && base64url::is_text(key)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use resty_session_core::time::Seconds;

    fn at(seconds: u64) -> Timestamp {
        Timestamp::from_secs(seconds)
    }

    fn key(name: char) -> String {
        name.to_string().repeat(KEY_SIZE)
    }

    fn text(items: &[(char, Option<u64>)]) -> Vec<u8> {
        let item = |(name, expiry): &(char, Option<u64>)| match expiry {
            Some(expiry) => note(&key(*name), at(*expiry)).unwrap(),
            None => deleted(&key(*name)).unwrap(),
        };
        items.iter().flat_map(item).collect()
    }

    #[test]
    fn what_many_deletes_change_is_gathered_by_owner_and_cookie() {
        let delete = |name: &str, key: char, subjects: &[&[u8]]| Delete {
            name: name.into(),
            key: key.to_string().repeat(KEY_SIZE),
            current_time: Timestamp::from_secs(5),
            owners: subjects.iter().map(|subject| Owner::new(b"shop", subject, false)).collect(),
        };
        let deletes = [
            delete("s", 'a', &[b"ada"]),
            delete("s", 'b', &[b"ada", b"eve"]),
            delete("r", 'c', &[b"ada"]),
            delete("s", 'd', &[]),
        ];
        let Departures { records, owners } = departures(&deletes).unwrap();
        assert!(records.iter().map(|record| &record.key).eq(deletes.iter().map(|delete| &delete.key)));
        assert!(records.iter().all(|record| record.owners.is_empty()));
        let item = |key: char| format!("{};", key.to_string().repeat(KEY_SIZE));
        let expected = [("s", "ada", item('a') + &item('b')), ("s", "eve", item('b')), ("r", "ada", item('c'))];
        assert_eq!(owners.len(), expected.len());
        for (departure, (name, subject, items)) in owners.iter().zip(expected) {
            assert!(*departure.name == *name && departure.owner == Owner::new(b"shop", subject.as_bytes(), false));
            assert!(departure.items == items.as_bytes());
        }
        assert!(departures(&[delete("s", '!', &[b"ada"])]).is_err());
    }

    #[test]
    fn an_item_is_key_and_five_bytes() {
        assert_eq!(text(&[('k', Some(0x01_0203_0405)), ('k', None)]), format!("{0}:BQQDAgE;{0};", key('k')).as_bytes());
        assert_eq!(text(&[('k', Some(u64::MAX))]), text(&[('k', Some(MAX_EXPIRY.as_secs()))]));
    }

    #[test]
    fn the_last_item_of_a_key_counts() {
        let items = text(&[('a', Some(5)), ('b', Some(9)), ('a', None), ('c', Some(3)), ('d', None), ('d', Some(7))]);
        let live = |text: &[u8], current_time| -> Vec<(String, u64)> {
            let live = live(text, at(current_time)).unwrap();
            live.into_iter().map(|session| (session.key, session.expiry.as_secs())).collect()
        };
        assert_eq!(live(&items, 2), [(key('b'), 9), (key('c'), 3), (key('d'), 7)]);
        assert_eq!(live(&items, 7), [(key('b'), 9)]);
        assert_eq!(live(b"", 0), []);
    }

    #[test]
    fn a_compact_text_has_the_same_sessions() {
        let items = text(&[('b', Some(9)), ('a', Some(5)), ('a', None), ('c', Some(3)), ('c', Some(4))]);
        let compacted = compact(&items, at(0)).unwrap();
        assert_eq!(compacted, Compact { text: text(&[('b', Some(9)), ('c', Some(4))]), expiry: Some(at(9)) });
        assert_eq!(compact(&items, at(9)).unwrap(), Compact { text: Vec::new(), expiry: None });
    }

    #[test]
    fn a_record_adds_itself_and_takes_the_replaced_one_out() {
        let set = Set {
            name: "n".into(),
            key: key('n'),
            value: Vec::new(),
            ttl: Seconds::from_secs(5),
            current_time: Timestamp::from_secs(100),
            old_key: Some(key('o')),
            old_must_exist: false,
            stale_ttl: Seconds::ZERO,
            owners: Vec::new(),
        };
        assert_eq!(written(&set).unwrap(), text(&[('n', Some(105)), ('o', None)]));
        assert!(written(&Set { key: "short".into(), ..set.clone() }).is_err());
        assert!(written(&Set { old_key: Some("o;".repeat(22)), ..set }).is_err());
    }

    #[test]
    fn a_damaged_text_is_an_error_that_says_where() {
        let good = text(&[('a', Some(5)), ('b', None)]);
        for size in 1..good.len() {
            assert_eq!(live(&good[..size], at(0)).is_ok(), size == KEY_SIZE + 1 + EXPIRY_SIZE + 1, "{size}");
        }
        for (place, byte) in [(0, b';'), (0, 0xff), (43, b'.'), (44, b'='), (50, b'B'), (51, b':'), (95, b'\n')] {
            let mut bad = good.clone();
            bad[place] = byte;
            let error = live(&bad, at(0)).unwrap_err().to_string();
            assert_eq!(error, format!("invalid metadata at byte {}", if place < 52 { 0 } else { 52 }));
        }
    }

    proptest! {
        #[test]
        fn no_bytes_make_it_panic_or_grow(bytes in prop::collection::vec(any::<u8>(), 0..300), current_time in any::<u64>()) {
            if let Ok(compacted) = compact(&bytes, at(current_time)) {
                prop_assert!(compacted.text.len() <= bytes.len());
            }
        }
    }
}
