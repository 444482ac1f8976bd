//! Revoked sessions: how marks are looked up when a session opens, and written when it ends.
//!
//! See docs/formats.md, "Marks", for their form. A session in a cookie has marks of its id, its
//! subject, its sid, and its sign-in. One in a storage has no mark of its id, because its record is
//! deleted instead.

use std::rc::Rc;
use std::sync::Arc;

use super::audiences::{self, Entry};
use super::marks::{Answer, Keys, Known, KnownMarks, Mark, Verdict};
use super::name::Name;
use super::options::{FailMode, Options};
use super::{Configuration, Context, CookieSettings, Error, Kind, Session, sign_in};
use crate::cookie::attributes::MAX_AGE;
use crate::cookie::{Header, Sid, base64url};
use crate::secret::Secret;
use crate::storage::{Error as StorageError, Get, Reply, Set};
use crate::time::{Seconds, Timestamp};

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

    /// Whether anything that is found out about marks counts later.
    fn remembers(&self) -> bool {
        !self.cache_ttl.is_zero() || self.closed && !self.error_cache_ttl.is_zero()
    }

    /// What is known of a mark, if these options let it count now. A failure counts only if it
    /// keeps sessions from opening.
    fn counts(&self, known: Known, now: Timestamp) -> Option<Answer> {
        let ttl = match known.answer {
            Ok(_) => self.cache_ttl,
            Err(_) if self.closed => self.error_cache_ttl,
            Err(_) => Seconds::ZERO,
        };
        (now < known.found_at + ttl).then_some(known.answer)
    }
}

/// What is known of the marks of a session that opens.
#[derive(Default)]
pub(super) struct Checked<'a> {
    /// Those of which nothing is known.
    unknown: Vec<Unknown<'a>>,
    /// The places of the entries whose sign-in has ended, of several.
    ended: Vec<usize>,
}

/// A mark that is to be looked up.
struct Unknown<'a> {
    mark: Mark<'a>,
    /// The name of its record.
    name: &'a Arc<str>,
    /// The place of the only entry that the mark ends, if it does not end the session.
    entry: Option<usize>,
}

impl Configuration {
    /// Whether the worker remembers what it finds out about marks: if not, each open looks them up.
    pub fn remembers_marks(&self) -> bool {
        self.revocation.as_ref().is_some_and(|revocation| revocation.remembers())
    }
}

impl Context {
    fn mark_keys(&self) -> Keys {
        let Configuration { hash_storage_key, hash_subject, .. } = *self.configuration;
        Keys { hash_storage_key, hash_subject }
    }

    /// The name of the record of a mark of a session in that cookie.
    fn mark_name<'a>(&'a self, cookie: &'a CookieSettings, mark: &Mark<'_>) -> &'a Arc<str> {
        match mark {
            Mark::Id(_) => &cookie.name,
            _ => &self.cookie(Kind::Session).name,
        }
    }

    /// Checks a session's id against what is known of its mark.
    ///
    /// # Errors
    ///
    /// The session is revoked, or a recent look-up failed and sessions don't open then.
    pub(super) fn check_id<'a>(&'a self, cookie: &'a CookieSettings, header: &'a Header) -> Result<Checked<'a>, Error> {
        let mut checked = Checked::default();
        if !self.configuration.stored {
            self.check_known(cookie, header, [Mark::Id(header.sid().into())], (None, &mut checked))?;
        }
        Ok(checked)
    }

    /// Checks a session that was decrypted against what is known of its marks. Those of the subject
    /// and the sid count for the current audience's entry, whose place is `index`, and in a
    /// remember cookie for all. That of a sign-in ends its entry alone if there are several: the
    /// other audiences go on without it.
    ///
    /// # Errors
    ///
    /// The session is revoked, or a recent look-up failed and sessions don't open then.
    pub(super) fn check_marks<'a>(
        &'a self,
        cookie: &'a CookieSettings,
        header: &'a Header,
        entries: &'a [Entry<'_>],
        index: Option<usize>,
    ) -> Result<Checked<'a>, Error> {
        if !self.marks_sessions() {
            return Ok(Checked::default());
        }
        let is_slow = cookie.derives_slowly();
        let mut checked = if is_slow { Checked::default() } else { self.check_id(cookie, header)? };
        let all = cookie.kind == Kind::Remember;
        for (number, entry) in entries.iter().enumerate() {
            let (sid, sign_in) = entry.sid_and_sign_in();
            let sign_in = sign_in_mark(entry, sign_in, header);
            if Some(number) == index || all {
                let subject = entry.subject.as_ref().map(|subject| Mark::Subject(subject.text()));
                let sid = sid.map(|sid| Mark::Sid(sid.into_text()));
                let forgotten = sign_in.as_ref().filter(|_| all).and_then(Mark::forgotten);
                let marks = subject.into_iter().chain(sid).chain(forgotten).filter(|mark| !mark.is_empty());
                self.check_known(cookie, header, marks, (None, &mut checked))?;
            }
            let alone = (entries.len() > 1).then_some(number);
            self.check_known(cookie, header, sign_in, (alone, &mut checked))?;
        }
        Ok(checked)
    }

    /// Checks a cookie's id, and the marks of all entries.
    async fn check_all(&self, kind: Kind, header: &Header, entries: &[Entry<'_>]) -> Result<(), Error> {
        let cookie = self.cookie(kind);
        let mut checked = self.check_marks(cookie, header, entries, None)?;
        if cookie.derives_slowly() {
            checked.unknown.extend(self.check_id(cookie, header)?.unknown);
        }
        let ended = self.look_up(header, checked).await?;
        if ended.is_empty() || ended.len() < entries.len() { Ok(()) } else { Err(Error::SessionRevoked) }
    }

    /// Checks a session, or only the entry at that place, against what is known of these marks.
    fn check_known<'a>(
        &'a self,
        cookie: &'a CookieSettings,
        header: &Header,
        marks: impl IntoIterator<Item = Mark<'a>>,
        (entry, checked): (Option<usize>, &mut Checked<'a>),
    ) -> Result<(), Error> {
        let Some(revocation) = &self.configuration.revocation else { return Ok(()) };
        let remembers = revocation.remembers();
        for mark in marks {
            let name = self.mark_name(cookie, &mark);
            // What never counts is not looked at.
            let known = if remembers { revocation.known.get(name, &mark, self.mark_keys()) } else { None };
            match known.and_then(|known| revocation.counts(known, self.now)) {
                Some(Ok(verdict)) if verdict.revokes(header.creation_time()) => {
                    checked.ended.push(entry.ok_or(Error::SessionRevoked)?)
                }
                Some(Ok(_)) => {}
                Some(Err(cause)) => return Err(Error::CheckRevocation(cause.to_string())),
                None => checked.unknown.push(Unknown { mark, name, entry }),
            }
        }
        Ok(())
    }

    /// The payload of an opened session with the sign-in ids that its cookie implies written in it,
    /// if it lacks any: later, a program may have changed the names that they are derived from.
    ///
    /// # Errors
    ///
    /// The data have not the form of a payload.
    pub(super) fn with_sign_ins(&self, header: &Header, entries: &[Entry<'_>]) -> Result<Option<Secret>, Error> {
        if !self.marks_sessions() {
            return Ok(None);
        }
        audiences::with_sign_ins(entries, |entry| {
            Ok(entry
                .audience
                .as_ref()
                .map_or_else(String::new, |audience| sign_in::derived(header, audience, entry.subject.as_ref())))
        })
    }

    /// Looks up the marks of which nothing is known, in one request. A store that fails in `open`
    /// mode is a warning. Returns the places of the entries that have ended alone.
    ///
    /// # Errors
    ///
    /// The session is revoked, or the store failed in `closed` mode.
    pub(super) async fn look_up(&self, header: &Header, checked: Checked<'_>) -> Result<Vec<usize>, Error> {
        match checked.unknown.is_empty() {
            true => Ok(checked.ended),
            // Boxed, because it runs only if marks are looked up, and every open awaits this.
            false => Box::pin(self.look_up_all(header, checked)).await,
        }
    }

    async fn look_up_all(&self, header: &Header, checked: Checked<'_>) -> Result<Vec<usize>, Error> {
        let Checked { unknown, mut ended } = checked;
        let (keys, current_time) = (self.mark_keys(), self.now);
        let get = |Unknown { mark, name, .. }: &Unknown<'_>| Get {
            name: Arc::clone(name),
            key: mark.key(keys),
            current_time,
        };
        let found = self.environment.look_up(unknown.iter().map(get).collect()).await;
        let answer = |result: Result<Option<Vec<u8>>, StorageError>| match result {
            Ok(value) => Ok(Verdict::of(value.as_deref())),
            Err(error) => Err(Rc::from(error.to_string())),
        };
        let answers: Vec<Answer> = match found {
            Ok(results) => results.into_iter().map(answer).collect(),
            Err(error) => unknown.iter().map(|_| answer(Err(error.clone()))).collect(),
        };
        // What revokes is told to configurations with other options, too.
        let remembers = self.configuration.remembers_marks();
        for (Unknown { mark, name, .. }, answer) in unknown.iter().zip(&answers) {
            if remembers || !matches!(answer, Ok(Verdict::Valid)) {
                self.remember(name, mark, answer.clone());
            }
        }
        let revokes = |answer: &Answer| answer.as_ref().is_ok_and(|verdict| verdict.revokes(header.creation_time()));
        for (Unknown { entry, .. }, _) in unknown.iter().zip(&answers).filter(|(_, answer)| revokes(answer)) {
            ended.push(entry.ok_or(Error::SessionRevoked)?);
        }
        match answers.into_iter().find_map(Result::err) {
            Some(cause) if self.fails_closed() => return Err(Error::CheckRevocation(cause.to_string())),
            Some(cause) => self.environment.warn(format!("unable to check session revocation: {cause}")),
            None => {}
        }
        Ok(ended)
    }

    fn fails_closed(&self) -> bool {
        self.configuration.revocation.as_ref().is_some_and(|revocation| revocation.closed)
    }

    /// Remembers what was found out about a mark just now.
    fn remember(&self, name: &str, mark: &Mark<'_>, answer: Answer) {
        let Some(revocation) = &self.configuration.revocation else { return };
        let ttl = if answer.is_ok() { revocation.cache_ttl } else { revocation.error_cache_ttl };
        let known = Known { answer, found_at: self.now };
        revocation.known.put(name, mark, self.mark_keys(), (known, ttl));
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
        if self.configuration.stored || !self.marks_sessions() {
            return Ok(());
        }
        let (age, since_save) = (self.now.since(header.creation_time()), self.now.since(header.save_time()));
        let ttl = self.cookie(kind).timeouts.record_ttl(age, since_save);
        self.try_to_mark(kind, Mark::Id(header.sid().into()), ttl).await
    }

    /// Marks the sign-ins of entries, as long as a copy of any cookie that comes from them could
    /// open. `header` is that of the cookie that they were read from.
    ///
    /// # Errors
    ///
    /// The store failed in `closed` mode.
    async fn mark_sign_ins(&self, header: &Header, entries: &[Entry<'_>]) -> Result<(), Error> {
        let longest = |kind| self.cookie(kind).timeouts.record_ttl(Seconds::ZERO, Seconds::ZERO);
        let ttl = longest(Kind::Session).max(longest(Kind::Remember)) + SLACK;
        for mark in entries.iter().filter_map(|entry| sign_in_mark(entry, entry.sign_in(), header)) {
            self.try_to_mark(Kind::Session, mark, ttl.min(MAX_AGE)).await?;
        }
        Ok(())
    }

    /// Marks the remember cookies that exist of the entries' sign-ins, whose user asked to be
    /// forgotten.
    ///
    /// # Errors
    ///
    /// The store failed in `closed` mode.
    pub(super) async fn mark_forgotten(&self, entries: &[Entry<'_>]) -> Result<(), Error> {
        let ttl = self.cookie(Kind::Remember).timeouts.longest_life();
        for id in entries.iter().filter_map(Entry::sign_in) {
            self.try_to_mark(Kind::Remember, Mark::Forgotten(id.text()), ttl).await?;
        }
        Ok(())
    }

    async fn try_to_mark(&self, kind: Kind, mark: Mark<'_>, ttl: Seconds) -> Result<(), Error> {
        match self.mark(kind, mark, ttl).await {
            // A cookie that can't be cleared any more would go on working.
            Err(cause) if self.fails_closed() || !self.configuration.stored && self.unsendable.is_some() => {
                Err(Error::MarkRevoked(cause))
            }
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
        #[cfg(feature = "torture_bugs")]
        if crate::torture_bugs::is_due("mark", 20) {
            return Ok(());
        }
        let name = self.mark_name(self.cookie(kind), &mark);
        let (value, verdict) = match mark {
            Mark::Id(_) | Mark::SignIn(_) => ("1".to_owned(), Verdict::Revoked),
            _ => (self.now.as_secs().to_string(), Verdict::RevokedUntil(self.now.as_secs() as f64)),
        };
        let place = (name.clone(), mark.key(self.mark_keys()));
        let set = Set::alone(place, value.into_bytes(), ttl, self.now);
        match self.environment.revocation(set.into()).await {
            Ok(Reply::Done) => {
                self.remember(name, &mark, Ok(verdict));
                Ok(())
            }
            Ok(_) => Err("the store gives no reason".to_owned()),
            Err(error) => Err(error.to_string()),
        }
    }
}

impl Session {
    /// Gives a sign-in id to each audience of the data that has none, so that all cookies that come
    /// from this save are known to belong together. Returns the former payload if that changed it.
    ///
    /// # Errors
    ///
    /// The operating system has no randomness, or the data have not the form of a payload.
    pub(super) fn begin_sign_in(&mut self, context: &Context) -> Result<Option<Secret>, Error> {
        if !context.marks_sessions() {
            return Ok(None);
        }
        let with_ids = audiences::with_sign_ins(&audiences::entries(&self.payload)?, |_| {
            let mut id = base64url::encode(&context.fresh_sid()?);
            id.truncate(sign_in::SIZE);
            Ok(id)
        })?;
        Ok(with_ids.map(|payload| {
            self.sole = None;
            self.rewritten = true;
            std::mem::replace(&mut self.payload, payload)
        }))
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

    /// Whether a cookie that was not decrypted is revoked, if it belongs to the same user.
    ///
    /// # Errors
    ///
    /// The store failed in `closed` mode.
    pub(super) async fn is_revoked(&self, context: &Context, kind: Kind, header: &Header) -> Result<bool, Error> {
        if !context.marks_sessions() {
            return Ok(false);
        }
        let entries = audiences::entries(&self.payload).unwrap_or_default();
        match Box::pin(context.check_all(kind, header, &entries)).await {
            Ok(()) => Ok(false),
            Err(Error::SessionRevoked) => Ok(true),
            Err(error) => Err(error),
        }
    }

    /// Marks the sign-in of the current audience, which leaves the session. `header` is that of its
    /// cookie.
    ///
    /// # Errors
    ///
    /// The store failed in `closed` mode.
    pub(super) async fn mark_own_sign_in(&self, context: &Context, header: &Header) -> Result<(), Error> {
        let (Some(index), true) = (self.index, context.marks_sessions()) else { return Ok(()) };
        let entries = audiences::entries(&self.payload)?;
        context.mark_sign_ins(header, entries.get(index).map(std::slice::from_ref).unwrap_or_default()).await
    }
}

/// The mark of the sign-in that an entry of a session comes from. `written` is the id in the entry.
fn sign_in_mark<'a>(entry: &Entry<'a>, written: Option<Name<'a>>, header: &Header) -> Option<Mark<'a>> {
    sign_in::of(header, entry.audience.as_ref(), entry.subject.as_ref(), written).map(Mark::SignIn)
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
