//! Notes: what a request that had a session for itself leaves for the next one.
//!
//! The next request may carry an older cookie, which was sent before the session was saved under a
//! new id. So the note holds the session's cookies as they were last set. It is encrypted, because
//! it is kept where others may read: base64url of a random nonce (12 bytes), the AES-256-GCM
//! ciphertext, and the tag (16 bytes). Its key is derived from the session cookie's for this
//! purpose and for the lock under which the request ran.
//!
//! | offset | size | what is encrypted |
//! | --- | --- | --- |
//! | 0 | 8 | when the session was last saved or touched, or ended: seconds since the Unix epoch |
//! | 8 | 2 | the number n of ids: at least 1, at most [`MAX_IDS`] |
//! | 10 | 8 n | the first 8 bytes of session ids: of the newest, then of those that it replaced |
//! | 10 + 8 n | | the cookies as a Cookie header; nothing if the session has ended |
//!
//! Integers are unsigned and little-endian.
//!
//! Only a cookie whose id is among these leads to the note's cookies. The lock alone does not tell
//! whose they are: somebody may have made a user sign in over a cookie that he knows, and both
//! cookies then come from one sign-in.

use super::configuration::Random;
use super::{Configuration, Kind};
use crate::cookie::base64url::{self, DecodeError};
use crate::cookie::cipher::{self, CipherError, NONCE_SIZE, OneTimeKey};
use crate::cookie::{Header, Key, request};
use crate::secret::{Secret, show_only};
use crate::time::Timestamp;

/// The most ids in a note. If there are more, the oldest are left out.
pub const MAX_IDS: usize = 256;
/// The most characters of a note: two sessions of nine full cookies take less.
const MAX_SIZE: usize = 128 * 1024;

type Id = [u8; 8];

/// Why a note can't be sealed or opened.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The text is not base64url.
    #[error(transparent)]
    Encoding(#[from] DecodeError),
    /// The text was made with another key or for another lock, or was changed.
    #[error(transparent)]
    Cipher(#[from] CipherError),
    /// The text is too short or too long.
    #[error("invalid size")]
    Size,
    /// What was encrypted is not a note.
    #[error("invalid format")]
    Format,
    /// The operating system has no randomness for a nonce.
    #[error(transparent)]
    Random(#[from] getrandom::Error),
}

/// A note.
#[derive(Clone, PartialEq, Eq)]
pub struct Note {
    touched_at: Timestamp,
    /// The newest first.
    ids: Vec<Id>,
    cookies: Secret,
}

show_only!(Note { touched_at });

impl Note {
    /// The note of a turn, whose response has set cookies by these Set-Cookie lines.
    ///
    /// `names` are those of the session's cookie and of its remember cookie. `cookies` is the
    /// Cookie header that the turn began with, and `opened` what it has opened there. `now` is when
    /// the session ended, if the lines delete its cookie.
    ///
    /// Returns `None` if nothing has changed. What the client has sent changes nothing: it may send
    /// other cookies of the same name. The note does not know the cookie that was opened, unless
    /// the session has ended.
    pub fn of_turn(
        names: [&str; 2],
        cookies: &[u8],
        lines: &[impl AsRef<[u8]>],
        opened: &Header,
        now: Timestamp,
    ) -> Option<Self> {
        let pairs = lines.iter().filter_map(|line| request::pairs(line.as_ref()).next());
        let values: Vec<_> = pairs.filter(|(name, ..)| *name == names[0].as_bytes()).collect();
        let set: Vec<_> = values.iter().filter_map(|(_, value, _)| Header::decode((*value)?).ok()).collect();
        if values.is_empty() || set.contains(opened) {
            return None;
        }
        let Some(newest) = set.last() else { return Some(Self::of_end(opened, now)) };
        let cookies = request::after_response(cookies, lines, &names).into();
        Some(Self { touched_at: newest.touch_time(), ids: vec![id(newest)], cookies })
    }

    /// The note of a turn that has opened this cookie, and in which the session ended at this time.
    pub fn of_end(opened: &Header, now: Timestamp) -> Self {
        Self { touched_at: now, ids: vec![id(opened)], cookies: Secret::default() }
    }

    /// The same note, which comes after another one of the same session.
    #[must_use]
    pub fn after(self, previous: &Self) -> Self {
        self.replacing(previous.ids.iter().copied())
    }

    /// The same note, whose session has replaced this cookie in a turn.
    #[must_use]
    pub fn replacing_header(self, header: &Header) -> Self {
        self.replacing([id(header)])
    }

    fn replacing(mut self, ids: impl IntoIterator<Item = Id>) -> Self {
        for id in ids {
            if self.ids.len() < MAX_IDS && !self.ids.contains(&id) {
                self.ids.push(id);
            }
        }
        self
    }

    /// Whether this cookie is the session's newest one, or one that turns have replaced.
    pub fn knows(&self, own: &Header) -> bool {
        self.ids.contains(&id(own))
    }

    /// Whether the note is newer than this cookie, which it knows.
    pub fn is_newer_than(&self, own: &Header) -> bool {
        match self.ids.first() {
            Some(newest) if *newest == id(own) => self.has_ended() || self.touched_at > own.touch_time(),
            _ => self.knows(own),
        }
    }

    /// Whether the session has ended.
    pub fn has_ended(&self) -> bool {
        self.cookies.is_empty()
    }

    /// The session's cookies, and those of its remember cookie, as a Cookie header.
    pub fn cookies(&self) -> &[u8] {
        &self.cookies
    }

    /// Encrypts the note for the next request with this lock, and returns its text.
    ///
    /// # Errors
    ///
    /// The operating system has no randomness, or the note is too long.
    pub fn seal(&self, configuration: &Configuration, lock: &[u8], random: Random) -> Result<String, Error> {
        let mut nonce = [0; NONCE_SIZE];
        random(&mut nonce)?;
        let key = configuration.cookie(Kind::Session).keys.writing();
        let sealed = one_time_key(key, lock, nonce).seal_text(&self.encode(), lock)?;
        if sealed.len() > MAX_SIZE { Err(Error::Size) } else { Ok(sealed) }
    }

    /// Decrypts a note that was made for this lock.
    ///
    /// # Errors
    ///
    /// No key of the configuration opens it, or it is not a note.
    pub fn open(configuration: &Configuration, lock: &[u8], sealed: &[u8]) -> Result<Self, Error> {
        if sealed.len() > MAX_SIZE {
            return Err(Error::Size);
        }
        let sealed = base64url::decode(sealed)?;
        let (nonce, ciphertext, tag) = cipher::split_sealed(&sealed).ok_or(Error::Size)?;
        let mut data = Secret::from(ciphertext.to_vec());
        let opens = |key| one_time_key(key, lock, nonce).decrypt(&mut data, lock, &tag).is_ok();
        if !configuration.cookie(Kind::Session).keys.iter().any(opens) {
            return Err(CipherError::Tag.into());
        }
        Self::decode(&data).ok_or(Error::Format)
    }

    pub(super) fn encode(&self) -> Secret {
        let mut data = Secret::from(Vec::with_capacity(10 + 8 * self.ids.len() + self.cookies.len()));
        data.extend_from_slice(&self.touched_at.as_secs().to_le_bytes());
        // There are never more than MAX_IDS.
        data.extend_from_slice(&(self.ids.len() as u16).to_le_bytes());
        data.extend_from_slice(self.ids.as_flattened());
        data.extend_from_slice(&self.cookies);
        data
    }

    pub(super) fn decode(data: &[u8]) -> Option<Self> {
        let (touched_at, rest) = data.split_first_chunk()?;
        let (count, rest) = rest.split_first_chunk()?;
        let count = usize::from(u16::from_le_bytes(*count));
        if count == 0 || count > MAX_IDS {
            return None;
        }
        let (ids, cookies) = rest.split_at_checked(count * size_of::<Id>())?;
        Some(Self {
            touched_at: Timestamp::from_secs(u64::from_le_bytes(*touched_at)),
            ids: ids.as_chunks().0.to_vec(),
            cookies: cookies.to_vec().into(),
        })
    }
}

/// What stands for a session id in a note.
fn id(header: &Header) -> Id {
    *header.sid().first_chunk().unwrap_or(&[0; 8])
}

fn one_time_key(key: &Key, lock: &[u8], nonce: [u8; NONCE_SIZE]) -> OneTimeKey {
    OneTimeKey { key: *key.separate(&[b"newest:", lock]).ikm(), nonce }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cookie::header::Fields;
    use crate::cookie::{Flags, Sid};
    use crate::session::configuration::tests::{initial, text};
    use crate::settings::Value;
    use crate::time::Seconds;

    const LOCK: &[u8] = b"the lock's key";

    fn header(sid: Sid, rolling_offset: u64) -> Header {
        let (creation_time, rolling_offset) = (Timestamp::from_secs(100), Seconds::from_secs(rolling_offset));
        Header::new(&Fields { flags: Flags::empty(), sid, creation_time, rolling_offset, data_size: 4 }).unwrap()
    }

    /// The note of a turn that began with the cookie that it has opened, and others.
    fn turn(cookies: &str, opened: &Header, lines: &[String]) -> Option<Note> {
        let cookies = format!("{cookies}; session={}", opened.encode());
        Note::of_turn(["session", "remember"], cookies.as_bytes(), lines, opened, Timestamp::from_secs(1000))
    }

    fn line(header: &Header) -> String {
        format!("session={}; Path=/; HttpOnly", header.encode())
    }

    fn note(opened: &Header, newest: &Header) -> Note {
        turn("a=1; session2=more", opened, &[line(newest)]).unwrap().replacing_header(opened)
    }

    fn end(opened: &Header, now: u64) -> Note {
        Note::of_end(opened, Timestamp::from_secs(now))
    }

    #[test]
    fn a_note_opens_with_its_own_key_and_lock_only() {
        let with = |values: &[(&'static str, Value)]| initial(values).unwrap();
        let own = with(&[("secret", text("s"))]);
        let [first, second] = [header([1; 32], 0), header([2; 32], 5)];
        for note in [note(&first, &second), end(&first, 7)] {
            let sealed = note.seal(&own, LOCK, getrandom::fill).unwrap();
            assert!(Note::open(&own, LOCK, sealed.as_bytes()).unwrap() == note);
            let fallbacks = Value::List(vec![text("r"), text("s")]);
            let later = with(&[("secret", text("t")), ("secret_fallbacks", fallbacks)]);
            assert!(Note::open(&later, LOCK, sealed.as_bytes()).unwrap() == note, "a fallback key");
            assert!(Note::open(&with(&[("secret", text("t"))]), LOCK, sealed.as_bytes()).is_err());
            assert!(Note::open(&own, b"another lock", sealed.as_bytes()).is_err());
            assert_ne!(sealed, note.seal(&own, LOCK, getrandom::fill).unwrap(), "another nonce");
            for at in 0..sealed.len() {
                let mut changed = sealed.clone().into_bytes();
                changed[at] = if changed[at] == b'A' { b'B' } else { b'A' };
                assert!(Note::open(&own, LOCK, &changed).is_err(), "{at}");
                assert!(Note::open(&own, LOCK, &sealed.as_bytes()[..at]).is_err(), "{at}");
            }
        }
        assert!(matches!(Note::open(&own, LOCK, &[b'A'; MAX_SIZE + 4]), Err(Error::Size)));
    }

    #[test]
    fn no_bytes_that_were_encrypted_make_it_panic() {
        for size in 0..40 {
            for byte in [0, 1, 0xff] {
                let _ = Note::decode(&vec![byte; size]);
            }
        }
        assert!(Note::decode(&[0; 10]).is_none(), "without an id");
    }

    #[test]
    fn it_is_newer_than_the_cookies_that_it_knows() {
        let [first, second] = [header([1; 32], 0), header([2; 32], 5)];
        let made = note(&first, &second);
        assert!(made.is_newer_than(&first));
        assert!(!made.is_newer_than(&second), "the same cookie");
        for other in [header([3; 32], 5), header([4; 32], 4), header([4; 32], 6)] {
            assert!(!made.is_newer_than(&other) && !made.knows(&other), "the times do not matter");
        }
        let next = note(&second, &header([5; 32], 3)).after(&made);
        assert!(next.is_newer_than(&first) && next.is_newer_than(&second), "although this server's clock is behind");
        let ended = end(&second, 104).after(&made).replacing_header(&header([6; 32], 50));
        assert!(ended.has_ended() && !made.has_ended());
        assert!(ended.is_newer_than(&first) && ended.is_newer_than(&second));
        assert!(ended.is_newer_than(&header([6; 32], 50)) && !ended.is_newer_than(&header([7; 32], 4)));
    }

    #[test]
    fn it_knows_only_what_it_is_told() {
        let [opened, newest] = [header([1; 32], 0), header([2; 32], 5)];
        let made = turn("", &opened, &[line(&newest)]).unwrap();
        assert!(!made.knows(&opened) && made.knows(&newest));
        assert!(end(&opened, 7).knows(&opened));
    }

    #[test]
    fn a_touch_is_newer() {
        let own = header([1; 32], 0);
        let mut touched = own.clone();
        touched.set_idling_offset(Seconds::from_secs(9));
        let made = note(&own, &touched);
        assert!(made.is_newer_than(&own) && !made.is_newer_than(&touched));
    }

    #[test]
    fn nothing_is_noted_if_nothing_has_changed() {
        let own = header([1; 32], 0);
        for cookies in ["", "session=x", "session=", "session2=x; session=x"] {
            for lines in [vec![], vec!["other=1".to_owned(), "session2=".to_owned()], vec![line(&own)]] {
                assert!(turn(cookies, &own, &lines).is_none(), "{cookies} {lines:?}");
            }
        }
    }

    #[test]
    fn what_the_response_sets_is_noted() {
        let [own, newest] = [header([1; 32], 0), header([2; 32], 5)];
        let made = turn("session=x; remember=r; a=1", &own, &[line(&newest), "remember=s; Path=/".to_owned()]).unwrap();
        assert_eq!(made.cookies(), format!("session={}; remember=s", newest.encode()).as_bytes());
        let deleted = turn("session=x; remember=r", &own, &["session=; Max-Age=0".to_owned()]).unwrap();
        assert!(deleted == end(&own, 1000) && deleted.has_ended());
    }

    #[test]
    fn the_oldest_ids_are_left_out() {
        let mut made = note(&header([0; 32], 0), &header([1; 32], 0));
        for number in 0..1000_u64 {
            let mut sid = [9; 32];
            sid[..8].copy_from_slice(&number.to_le_bytes());
            made = note(&header([0; 32], 0), &header(sid, 0)).after(&made);
        }
        assert_eq!(made.ids.len(), MAX_IDS);
        assert_eq!(made.ids[0], 999_u64.to_le_bytes());
        assert!(made.ids.contains(&800_u64.to_le_bytes()));
    }
}
