//! Revoked sessions: how marks are looked up when a session opens, and written when it ends.
//!
//! See docs/formats.md, "Marks", for their form. A session in a cookie has marks of its id, its
//! subject, its sid, and its sign-in. One in a storage has no mark of its id, because its record is
//! deleted instead.

use std::rc::Rc;
use std::sync::Arc;

use super::audiences::{self, Entry};
use super::marks::{Answer, Keys, KnownMarks, Mark, Verdict};
use super::name::Name;
use super::options::{FailMode, Options};
use super::{Configuration, Context, CookieSettings, Error, Kind, Session, sign_in};
use crate::cookie::attributes::MAX_AGE;
use crate::cookie::{Header, Sid, base64url};
use crate::storage::{Get, Reply, Set};
use crate::time::Seconds;

/// How much longer a sign-in's mark lives than the cookies that exist when it is written: a request
/// that opened one before may still save it. In seconds.
const SLACK: Seconds = Seconds::from_secs(3600);

/// The options of revocation, and what the worker knows of marks.
pub(super) struct Revocation {
    /// Whether a session does not open if its marks can't be looked up.
    closed: bool,
    /// How long an answer of the store counts.
    cache_ttl: Seconds,
    /// How long a failure of the store counts in `closed` mode.
    error_cache_ttl: Seconds,
    known: KnownMarks,
}

/// What a program revokes.
pub enum Revoked {
    /// The session with this id.
    Id(Sid),
    /// The sessions of this user that exist now.
    Subject(Name<'static>),
    /// The sessions that exist now and have this session id of an identity provider.
    Sid(Vec<u8>),
}

impl Revocation {
    /// Reads the options about marks; `None` without a store of marks.
    ///
    /// # Errors
    ///
    /// `revocation_fail_mode` is wrong.
    pub(super) fn read(options: &Options, known: Option<KnownMarks>) -> Result<Option<Rc<Self>>, Error> {
        let closed = match options.revocation_fail_mode {
            Some(FailMode::Invalid) => return Err(Error::InvalidFailMode),
            mode => mode == Some(FailMode::Closed),
        };
        let seconds = |option: Option<u64>| Seconds::from_secs(option.unwrap_or_default());
        let cache_ttl = options.revocation_cache_ttl;
        let error_cache_ttl = seconds(options.revocation_error_cache_ttl.or(cache_ttl));
        Ok(known.map(|known| Rc::new(Self { closed, cache_ttl: seconds(cache_ttl), error_cache_ttl, known })))
    }
}

/// A mark that is to be looked up.
pub(super) struct Unknown {
    mark: Mark<'static>,
    /// The name of its record.
    name: Arc<str>,
}

impl Context {
    fn mark_keys(&self) -> Keys {
        let Configuration { hash_storage_key, hash_subject, .. } = *self.configuration;
        Keys { hash_storage_key, hash_subject }
    }

    /// The name of the record of a mark of a session in that cookie.
    fn mark_name(&self, cookie: &CookieSettings, mark: &Mark<'_>) -> Arc<str> {
        match mark {
            Mark::Id(_) => cookie.name.clone(),
            _ => self.cookie(Kind::Session).name.clone(),
        }
    }

    /// Checks a session's id against what is known of its mark. Returns the mark if nothing is.
    ///
    /// # Errors
    ///
    /// The session is revoked, or a recent look-up failed and sessions don't open then.
    pub(super) fn check_id(&self, cookie: &CookieSettings, header: &Header) -> Result<Vec<Unknown>, Error> {
        match self.configuration.stored {
            true => Ok(Vec::new()),
            false => self.check_known(cookie, header, [Mark::Id(header.sid().into())]),
        }
    }

    /// Checks a session that was decrypted against what is known of its marks, and returns the
    /// marks of which nothing is. `index` is the current audience's place among the entries;
    /// without it, and in a remember cookie, all entries count.
    ///
    /// # Errors
    ///
    /// The session is revoked, or a recent look-up failed and sessions don't open then.
    pub(super) fn check_marks(
        &self,
        cookie: &CookieSettings,
        header: &Header,
        entries: &[Entry<'_>],
        index: Option<usize>,
    ) -> Result<Vec<Unknown>, Error> {
        if !self.marks_sessions() {
            return Ok(Vec::new());
        }
        let is_slow = cookie.derives_slowly();
        let mut unknown = if is_slow { Vec::new() } else { self.check_id(cookie, header)? };
        let all = cookie.kind == Kind::Remember;
        for (number, entry) in entries.iter().enumerate() {
            let counts = Some(number) == index || all;
            let (sid, sign_in) = entry.sid_and_sign_in();
            if counts {
                let subject = entry.subject.as_ref().map(|subject| Mark::Subject(subject.text()));
                let sid = sid.as_ref().map(|sid| Mark::Sid(sid.text()));
                let marks = subject.into_iter().chain(sid).filter(|mark| !mark.is_empty());
                unknown.extend(self.check_known(cookie, header, marks)?);
            }
            if counts || index.is_none() {
                unknown.extend(self.check_known(cookie, header, sign_in_mark(entry, sign_in, header))?);
            }
        }
        Ok(unknown)
    }

    fn check_known<'a>(
        &self,
        cookie: &CookieSettings,
        header: &Header,
        marks: impl IntoIterator<Item = Mark<'a>>,
    ) -> Result<Vec<Unknown>, Error> {
        let Some(revocation) = &self.configuration.revocation else { return Ok(Vec::new()) };
        let mut unknown = Vec::new();
        for mark in marks {
            let name = self.mark_name(cookie, &mark);
            match revocation.known.get(&name, &mark, self.now) {
                Some(Ok(verdict)) if verdict.revokes(header.creation_time()) => return Err(Error::SessionRevoked),
                Some(Ok(_)) => {}
                Some(Err(cause)) => return Err(Error::CheckRevocation(cause.to_string())),
                None => unknown.push(Unknown { mark: mark.into_owned(), name }),
            }
        }
        Ok(unknown)
    }

    /// Looks marks up, in one request. A store that fails in `open` mode is a warning.
    ///
    /// # Errors
    ///
    /// The session is revoked, or the store failed in `closed` mode.
    pub(super) async fn look_up(&self, header: &Header, unknown: Vec<Unknown>) -> Result<(), Error> {
        match unknown.is_empty() {
            true => Ok(()),
            // Boxed, because it runs only if marks are looked up, and every open awaits this.
            false => Box::pin(self.look_up_all(header, unknown)).await,
        }
    }

    async fn look_up_all(&self, header: &Header, unknown: Vec<Unknown>) -> Result<(), Error> {
        let Some(revocation) = &self.configuration.revocation else { return Ok(()) };
        let (keys, current_time) = (self.mark_keys(), self.now.as_secs());
        let get = |Unknown { mark, name }: &Unknown| Get { name: name.clone(), key: mark.key(keys), current_time };
        let gets: Vec<Get> = unknown.iter().map(get).collect();
        let values = match self.environment.look_up(gets).await {
            Ok(values) => values,
            Err(error) if revocation.closed => {
                let cause = error.to_string();
                self.remember(unknown, |_| Err(cause.as_str().into()), revocation.error_cache_ttl);
                return Err(Error::CheckRevocation(cause));
            }
            Err(error) => {
                self.environment.warn(format!("unable to check session revocation: {error}"));
                return Ok(());
            }
        };
        let verdicts: Vec<Verdict> = values.iter().map(|value| Verdict::of(value.as_deref())).collect();
        self.remember(unknown, |number| Ok(verdicts[number]), revocation.cache_ttl);
        let is_revoked = verdicts.iter().any(|verdict| verdict.revokes(header.creation_time()));
        if is_revoked { Err(Error::SessionRevoked) } else { Ok(()) }
    }

    fn remember(&self, unknown: Vec<Unknown>, answer: impl Fn(usize) -> Answer, ttl: Seconds) {
        let Some(revocation) = &self.configuration.revocation else { return };
        for (number, Unknown { mark, name }) in unknown.iter().enumerate() {
            revocation.known.put(name, mark, answer(number), (self.now, ttl));
        }
    }

    /// Whether sessions are marked when they end.
    pub(super) fn marks_sessions(&self) -> bool {
        self.configuration.revocation.is_some()
    }

    /// Marks the id of a session in a cookie, as long as a copy of the cookie could open.
    ///
    /// # Errors
    ///
    /// The store failed in `closed` mode.
    pub(super) async fn mark_id(&self, kind: Kind, header: &Header) -> Result<(), Error> {
        if self.configuration.stored {
            return Ok(());
        }
        let (age, since_save) = (self.now.since(header.creation_time()), self.now.since(header.save_time()));
        let ttl = self.cookie(kind).timeouts.record_ttl(age, since_save);
        self.try_to_mark(kind, Mark::Id(header.sid().into()), ttl).await
    }

    async fn mark_sign_ins(&self, header: &Header, entries: &[Entry<'_>]) -> Result<(), Error> {
        let longest = |kind| self.cookie(kind).timeouts.record_ttl(Seconds::ZERO, Seconds::ZERO);
        let ttl = longest(Kind::Session).max(longest(Kind::Remember)) + SLACK;
        for mark in entries.iter().filter_map(|entry| sign_in_mark(entry, entry.sign_in(), header)) {
            self.try_to_mark(Kind::Session, mark, ttl.min(MAX_AGE)).await?;
        }
        Ok(())
    }

    async fn try_to_mark(&self, kind: Kind, mark: Mark<'_>, ttl: Seconds) -> Result<(), Error> {
        let Some(revocation) = &self.configuration.revocation else { return Ok(()) };
        match self.mark(kind, mark, ttl).await {
            Err(cause) if revocation.closed => Err(Error::MarkRevoked(cause)),
            Err(cause) => {
                self.environment.warn(format!("unable to mark session revoked: {cause}"));
                Ok(())
            }
            Ok(()) => Ok(()),
        }
    }

    /// Writes a mark, which this worker honours at once.
    ///
    /// # Errors
    ///
    /// The store's message.
    async fn mark(&self, kind: Kind, mark: Mark<'_>, ttl: Seconds) -> Result<(), String> {
        let Some(revocation) = &self.configuration.revocation else { return Ok(()) };
        let name = self.mark_name(self.cookie(kind), &mark);
        let (value, verdict) = match mark {
            Mark::Id(_) | Mark::SignIn(_) => ("1".to_owned(), Verdict::Revoked),
            _ => (self.now.as_secs().to_string(), Verdict::RevokedUntil(self.now.as_secs() as f64)),
        };
        let set = Set {
            name: name.clone(),
            key: mark.key(self.mark_keys()),
            value: value.into_bytes(),
            ttl: ttl.as_secs(),
            current_time: self.now.as_secs(),
            old_key: None,
            old_must_exist: false,
            stale_ttl: 0,
            owners: Vec::new(),
        };
        match self.environment.revocation(set.into()).await {
            Ok(Reply::Done) => {
                revocation.known.put(&name, &mark, Ok(verdict), (self.now, revocation.cache_ttl));
                Ok(())
            }
            Ok(_) => Err("the store gives no reason".to_owned()),
            Err(error) => Err(error.to_string()),
        }
    }
}

impl Session {
    /// Gives a sign-in id to each audience of the data that has none, so that all cookies that come
    /// from this save are known to belong together. A session that goes on keeps the id that its
    /// cookie implies.
    ///
    /// # Errors
    ///
    /// The operating system has no randomness, or the data have not the form of a payload.
    pub(super) fn begin_sign_in(&mut self, context: &Context, kind: Kind) -> Result<(), Error> {
        if !context.marks_sessions() {
            return Ok(());
        }
        let header = self.meta_of(kind).map(|meta| &meta.header);
        let with_ids = audiences::with_sign_ins(&self.payload, |entry| match (header, &entry.audience) {
            (Some(header), Some(audience)) => Ok(sign_in::derived(header, audience, entry.subject.as_ref())),
            _ => {
                let mut id = base64url::encode(&context.fresh_sid()?);
                id.truncate(sign_in::SIZE);
                Ok(id)
            }
        })?;
        if let Some(payload) = with_ids {
            self.payload = payload;
            self.sole = None;
        }
        Ok(())
    }

    /// Marks the sign-ins that a session comes from, as long as a copy of any cookie that comes
    /// from them could open. `header` is that of its cookie.
    ///
    /// # Errors
    ///
    /// The store failed in `closed` mode.
    pub(super) async fn mark_sign_ins(&self, context: &Context, header: &Header) -> Result<(), Error> {
        if !context.marks_sessions() {
            return Ok(());
        }
        // If a program replaced the data, they may not say which sign-ins they come from.
        let entries = audiences::entries(&self.payload).unwrap_or_default();
        context.mark_sign_ins(header, &entries).await
    }

    /// Marks the sign-in of the current audience, which leaves the session.
    ///
    /// # Errors
    ///
    /// The store failed in `closed` mode.
    pub(super) async fn mark_own_sign_in(&self, context: &Context) -> Result<(), Error> {
        let (Some(meta), Some(index), true) = (&self.meta, self.index, context.marks_sessions()) else { return Ok(()) };
        let entries = audiences::entries(&self.payload)?;
        context.mark_sign_ins(&meta.header, entries.get(index).map(std::slice::from_ref).unwrap_or_default()).await
    }
}

/// The mark of the sign-in that an entry of a session comes from. `written` is the id in the entry.
fn sign_in_mark<'a>(entry: &Entry<'a>, written: Option<Name<'a>>, header: &Header) -> Option<Mark<'a>> {
    let id = match written {
        Some(Name::Text(id)) => id,
        _ => sign_in::derived(header, entry.audience.as_ref()?, entry.subject.as_ref()).into_bytes().into(),
    };
    Some(Mark::SignIn(id))
}

/// Revokes sessions on behalf of a program, for `ttl` seconds.
///
/// # Errors
///
/// Revocation is not configured, or the store failed.
pub async fn revoke(context: &Context, revoked: Revoked, ttl: Seconds) -> Result<(), Error> {
    if !context.marks_sessions() {
        return Err(Error::RevocationOff);
    }
    let mark = match &revoked {
        Revoked::Id(sid) => Mark::Id(sid[..].into()),
        Revoked::Subject(subject) => Mark::Subject(subject.text()),
        Revoked::Sid(sid) => Mark::Sid(sid.as_slice().into()),
    };
    context.mark(Kind::Session, mark, ttl).await.map_err(Error::Revoke)
}
