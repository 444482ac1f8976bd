//! Marks: records that say that sessions were revoked, and what a worker knows of them.

use std::borrow::Cow;
use std::cell::RefCell;
use std::collections::VecDeque;
use std::rc::Rc;

use rustc_hash::FxHashMap;

use crate::cookie::base64url;
use crate::cookie::keys::sha256;
use crate::storage::{NAMED_MARKS, Owner};
use crate::time::{Seconds, Timestamp};

/// How many marks a worker knows at most.
const PLACES: usize = 1024;
/// How the keys of the marks of subjects and of identity providers' session ids start.
const OF_SUBJECT: &[u8] = NAMED_MARKS[0];
const OF_SID: &[u8] = NAMED_MARKS[1];
/// The longest text of a mark that is kept as it is, in bytes.
const MAX_TEXT: usize = 64;

/// What a mark is about.
#[derive(Clone)]
pub(super) enum Mark<'a> {
    /// A session id: 32 bytes.
    Id(Cow<'a, [u8]>),
    /// A user's name.
    Subject(Cow<'a, [u8]>),
    /// An identity provider's session id.
    Sid(Cow<'a, [u8]>),
    /// All sessions of one sign-in.
    SignIn(Cow<'a, [u8]>),
    /// The remember cookies of one sign-in, whose user asked to be forgotten.
    Forgotten(Cow<'a, [u8]>),
}

/// How the keys of marks are made.
#[derive(Clone, Copy)]
pub(super) struct Keys {
    pub hash_storage_key: bool,
    pub hash_subject: bool,
}

impl Mark<'_> {
    /// The key of the mark's record.
    pub(super) fn key(&self, keys: Keys) -> String {
        let text = match self {
            Self::Id(sid) => sid.to_vec(),
            Self::Subject(subject) => {
                let subject = Owner::new(b"", subject, keys.hash_subject).subject;
                [OF_SUBJECT, subject.as_bytes()].concat()
            }
            Self::Sid(sid) => [OF_SID, &**sid].concat(),
            // Only this library reads these, so their keys always have the same length.
            Self::SignIn(sign_in) => return base64url::encode(&sha256(&[b"sign-in:", &**sign_in].concat())),
            Self::Forgotten(sign_in) => return base64url::encode(&sha256(&[b"forgotten:", &**sign_in].concat())),
        };
        if keys.hash_storage_key { base64url::encode(&sha256(&text)) } else { base64url::encode(&text) }
    }

    /// The mark of the remember cookies of a sign-in.
    pub(super) fn forgotten(&self) -> Option<Mark<'static>> {
        match self {
            Self::SignIn(sign_in) => Some(Mark::Forgotten(sign_in.to_vec().into())),
            _ => None,
        }
    }

    /// Whether it is about nothing, as that of an empty subject.
    pub(super) fn is_empty(&self) -> bool {
        self.parts().1.is_empty()
    }

    /// Its kind, and what it is about.
    fn parts(&self) -> (u8, &[u8]) {
        match self {
            Self::Id(text) => (0, text),
            Self::Subject(text) => (1, text),
            Self::Sid(text) => (2, text),
            Self::SignIn(text) => (3, text),
            Self::Forgotten(text) => (4, text),
        }
    }

    /// Writes the name of its place over `buffer`.
    fn write_place(&self, buffer: &mut Vec<u8>, (store, keys): (u64, Keys), name: &str) {
        let (kind, text) = self.parts();
        buffer.clear();
        buffer.extend_from_slice(&store.to_le_bytes());
        buffer.push(kind | u8::from(keys.hash_storage_key) << 3 | u8::from(keys.hash_subject) << 4);
        buffer.extend_from_slice(name.as_bytes());
        buffer.push(0);
        // A name may be as long as a session's data.
        match text.len() > MAX_TEXT {
            true => buffer.extend_from_slice(&sha256(text)),
            false => buffer.extend_from_slice(text),
        }
    }
}

/// What the record of a mark says.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) enum Verdict {
    /// There is no mark.
    Valid,
    /// The session is revoked.
    Revoked,
    /// Sessions that were created at this time or before are revoked: seconds since the epoch.
    RevokedUntil(f64),
}

impl Verdict {
    /// What a record's value says. A value that is neither `1` nor a number says nothing.
    pub(super) fn of(value: Option<&[u8]>) -> Self {
        match value {
            None => Self::Valid,
            Some(b"1") => Self::Revoked,
            Some(value) => {
                let number = std::str::from_utf8(value).ok().and_then(|text| text.trim().parse().ok());
                number.filter(|number: &f64| number.is_finite()).map_or(Self::Valid, Self::RevokedUntil)
            }
        }
    }

    /// Whether it revokes a session that was created at that time.
    pub(super) fn revokes(self, creation_time: Timestamp) -> bool {
        match self {
            Self::Valid => false,
            Self::Revoked => true,
            Self::RevokedUntil(time) => time >= creation_time.as_secs() as f64,
        }
    }
}

/// What is known of a mark: its verdict, or why it could not be looked up.
pub(super) type Answer = Result<Verdict, Rc<str>>;

/// What a worker knows of the marks in a store, for as long as the options allow.
#[derive(Clone, Default)]
pub struct KnownMarks {
    store: u64,
    places: Rc<RefCell<Places>>,
}

impl KnownMarks {
    /// What is known of the marks in another store, with a number that tells it from others. All
    /// stores share the places.
    #[must_use]
    pub fn of_store(&self, store: u64) -> Self {
        Self { store, places: self.places.clone() }
    }

    /// What was found out about a mark in records of that name, and when.
    pub(super) fn get(&self, name: &str, mark: &Mark<'_>, keys: Keys) -> Option<Known> {
        let Places { answers, buffer, .. } = &mut *self.places.borrow_mut();
        mark.write_place(buffer, (self.store, keys), name);
        answers.get(buffer.as_slice()).cloned()
    }

    /// Remembers what was found out about a mark. If it says less than what is known, and that is
    /// younger than `ttl`, it is too late: it was asked for before the mark was written.
    pub(super) fn put(&self, name: &str, mark: &Mark<'_>, keys: Keys, (known, ttl): (Known, Seconds)) {
        let Places { answers, order, buffer } = &mut *self.places.borrow_mut();
        mark.write_place(buffer, (self.store, keys), name);
        if let Some(older) = answers.get_mut(buffer.as_slice()) {
            let is_late = older.found_at + ttl > known.found_at && older.strength() > known.strength();
            if !is_late {
                *older = known;
            }
            return;
        } else if ttl.is_zero() {
            return;
        }
        let place: Box<[u8]> = buffer.as_slice().into();
        answers.insert(place.clone(), known);
        order.push_back(place);
        if order.len() > PLACES
            && let Some(oldest) = order.pop_front()
        {
            answers.remove(&oldest);
        }
    }
}

#[derive(Default)]
struct Places {
    /// By place. Names that were chosen to collide make few look-ups slower, because there are few
    /// places.
    answers: FxHashMap<Box<[u8]>, Known>,
    /// The places in the order in which they were taken.
    order: VecDeque<Box<[u8]>>,
    /// Room for the name of a place, so that looking one up allocates nothing.
    buffer: Vec<u8>,
}

/// What was found out about a mark, and when.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct Known {
    pub answer: Answer,
    pub found_at: Timestamp,
}

impl Known {
    /// How much it revokes: the time up to which sessions are revoked, or all of them.
    fn strength(&self) -> f64 {
        match self.answer {
            Err(_) | Ok(Verdict::Valid) => f64::NEG_INFINITY,
            Ok(Verdict::RevokedUntil(time)) => time,
            Ok(Verdict::Revoked) => f64::INFINITY,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const PLAIN: Keys = Keys { hash_storage_key: false, hash_subject: false };

    fn at(seconds: u64) -> Timestamp {
        Timestamp::from_secs(seconds)
    }

    fn id(number: u16) -> Mark<'static> {
        Mark::Id(number.to_le_bytes().to_vec().into())
    }

    #[test]
    fn keys_are_those_of_records() {
        let hashed = Keys { hash_storage_key: true, hash_subject: true };
        let subject = Mark::Subject(b"ada".into());
        assert_eq!(Mark::Id([0; 32][..].into()).key(PLAIN), "A".repeat(43));
        assert_eq!(subject.key(PLAIN), base64url::encode(b"subject:YWRh"));
        assert_eq!(Mark::Sid(b"op".into()).key(PLAIN), base64url::encode(b"sid:op"));
        let hash = base64url::encode(&sha256(b"ada")[..16]);
        assert_eq!(subject.key(hashed), base64url::encode(&sha256(format!("subject:{hash}").as_bytes())));
        assert_eq!(Mark::Sid(b"op".into()).key(hashed), base64url::encode(&sha256(b"sid:op")));
        assert_eq!(Mark::SignIn(b"x".into()).key(hashed), Mark::SignIn(b"x".into()).key(PLAIN));
    }

    #[test]
    fn verdicts_are_those_of_numbers_and_of_1() {
        for (value, first_valid) in [("1700000000", 1_700_000_001), ("1.7e9", 1_700_000_001), (" 5\n", 6), ("2", 3)] {
            let verdict = Verdict::of(Some(value.as_bytes()));
            assert!(verdict.revokes(at(first_valid - 1)) && !verdict.revokes(at(first_valid)), "{value}");
        }
        assert!(Verdict::of(Some(b"1")).revokes(at(u64::MAX)));
        for value in [None, Some("".as_bytes()), Some(b"x"), Some(b"nan"), Some(b"inf"), Some(b"\xff")] {
            assert_eq!(Verdict::of(value), Verdict::Valid);
        }
    }

    const TTL: Seconds = Seconds::from_secs(5);

    fn put(known: &KnownMarks, number: u16, verdict: Verdict, now: u64, ttl: Seconds) {
        known.put("session", &id(number), PLAIN, (Known { answer: Ok(verdict), found_at: at(now) }, ttl));
    }

    fn get(known: &KnownMarks, number: u16) -> Option<Verdict> {
        known.get("session", &id(number), PLAIN)?.answer.ok()
    }

    #[test]
    fn marks_of_other_names_stores_and_keys_are_others() {
        let known = KnownMarks::default();
        put(&known, 0, Verdict::Revoked, 100, TTL);
        assert_eq!(get(&known, 0), Some(Verdict::Revoked));
        assert_eq!(known.get("remember", &id(0), PLAIN), None);
        assert_eq!(known.of_store(1).get("session", &id(0), PLAIN), None);
        assert_eq!(known.get("session", &id(0), Keys { hash_storage_key: true, ..PLAIN }), None);
        let (long, longer) = (vec![7; 1000], vec![7; 1001]);
        let answer = Known { answer: Ok(Verdict::Revoked), found_at: at(100) };
        known.put("session", &Mark::Subject(long.as_slice().into()), PLAIN, (answer, TTL));
        assert!(known.get("session", &Mark::Subject(long.into()), PLAIN).is_some());
        assert_eq!(known.get("session", &Mark::Subject(longer.into()), PLAIN), None);
    }

    #[test]
    fn a_late_answer_does_not_hide_a_mark() {
        let known = KnownMarks::default();
        put(&known, 0, Verdict::Revoked, 100, TTL);
        put(&known, 0, Verdict::Valid, 104, TTL);
        assert_eq!(get(&known, 0), Some(Verdict::Revoked));
        put(&known, 0, Verdict::RevokedUntil(50.0), 104, TTL);
        assert_eq!(get(&known, 0), Some(Verdict::Revoked));
        put(&known, 0, Verdict::Valid, 105, TTL);
        assert_eq!(get(&known, 0), Some(Verdict::Valid));
        put(&known, 0, Verdict::RevokedUntil(50.0), 105, TTL);
        assert_eq!(get(&known, 0), Some(Verdict::RevokedUntil(50.0)));
    }

    #[test]
    fn places_are_taken_again() {
        let known = KnownMarks::default();
        put(&known, 0, Verdict::Valid, 100, Seconds::ZERO);
        assert_eq!(get(&known, 0), None, "nothing is kept for no time");
        for number in 0..=1024 {
            put(&known, number, Verdict::Valid, 100, TTL);
        }
        assert_eq!((get(&known, 0), get(&known, 1024)), (None, Some(Verdict::Valid)));
        assert_eq!(known.places.borrow().answers.len(), PLACES);
    }
}
