//! The acts on one session: open, save, touch, refresh, logout, destroy.

use std::ops::Range;
use std::rc::Rc;

use super::audiences::{self, Entry, Sole};
use super::configuration::Random;
use super::effect::Environment;
use super::limit::Beginning;
use super::name::Name;
use super::reading::Opened;
use super::times::Refresh;
use super::{Configuration, CookieSettings, Error, Kind};
use crate::cookie::header::ENCODED_SIZE;
use crate::cookie::set_cookie::{self, Lines};
use crate::cookie::{self, Flags, Header, seal};
use crate::secret::{Secret, show_only};
use crate::time::{Seconds, Timestamp};

/// What an act works with besides the session.
#[derive(Clone)]
pub struct Context {
    /// The configuration for this request.
    pub configuration: Rc<Configuration>,
    /// The way to the request's values, the storage, and derivations.
    pub environment: Environment,
    /// The request's Cookie header; empty if it has none.
    pub cookies: Vec<u8>,
    /// Why the response can't set a cookie any more, if it can't.
    pub unsendable: Option<String>,
    /// The time at which the act starts.
    pub now: Timestamp,
    /// The source of session ids and nonces.
    pub random: Random,
}

/// What has become of a session.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum State {
    /// It was neither opened nor saved.
    New,
    /// It was opened or saved.
    Open,
    /// It was destroyed, or its audience was logged out.
    Closed,
}

/// What is known of a cookie that was opened or saved.
#[derive(Clone, PartialEq)]
pub struct Meta {
    /// The cookie's header.
    pub header: Header,
    /// The place among the cookie's keys of the one that authenticates it.
    pub key: usize,
    /// The start of the payload, which is in the first cookie; empty with a storage, and as long as
    /// [`place`](Self::place) tells where it is.
    pub initial_chunk: String,
    /// When it was opened or saved, and so its record certainly existed.
    pub known_at: Timestamp,
    /// The value's place in the request's Cookie header, if it is a session's that was read from
    /// there and has not changed. A later act must be given the same header.
    pub place: Option<Range<usize>>,
}

show_only!(Meta { header, known_at });

impl Meta {
    /// Reads the value of the first cookie. `key` is the place of the key that authenticates it,
    /// and `known_at` is when it was opened or saved.
    ///
    /// # Errors
    ///
    /// The value does not start with a header, or holds more than a stored session's may.
    pub fn from_value(mut value: Vec<u8>, key: usize, known_at: Timestamp) -> Result<Self, Error> {
        let header = Header::decode(&value)?;
        if header.flags().contains(Flags::STORED) && value.len() > ENCODED_SIZE {
            return Err(cookie::Error::BehindHeader.into());
        }
        value.drain(..ENCODED_SIZE);
        let initial_chunk = String::from_utf8(value).map_err(|_| cookie::Error::InvalidPayload)?;
        Ok(Self { header, key, initial_chunk, known_at, place: None })
    }

    /// The value of the first cookie; of its header alone, as long as it has a place in the
    /// request.
    pub fn value(&self) -> String {
        self.header.encode() + &self.initial_chunk
    }

    /// Copies the start of the payload from the request's Cookie header, if it is only there. Few
    /// acts need it, so an open does not copy it.
    pub(super) fn leave_request(&mut self, cookies: &[u8]) {
        let Some(place) = self.place.take() else { return };
        let chunk = cookies.get(place).and_then(|value| value.get(ENCODED_SIZE..)).unwrap_or_default();
        self.initial_chunk = String::from_utf8_lossy(chunk).into_owned();
    }
}

/// Which cookies of a request don't open, for reasons that another try would not change.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Refused {
    /// The session's own cookie.
    pub session: bool,
    /// The remember cookie.
    pub remember: bool,
}

/// A session between two acts.
///
/// An act that fails leaves it as it was, except for [`lines`](Self::lines), which set the cookies
/// of what was saved all the same.
#[derive(Clone)]
pub struct Session {
    /// Whether the session is open.
    pub state: State,
    /// The session's own cookie, if it was opened or saved.
    pub meta: Option<Meta>,
    /// The remember cookie, if it was opened or saved.
    pub remember_meta: Option<Box<Meta>>,
    /// Whether the program wants the user to be remembered.
    pub remember: bool,
    /// Whether the user asked to be forgotten in this session.
    pub forget: bool,
    /// The audience to open, if it is not the configured one.
    pub audience: Option<Name<'static>>,
    /// JSON, one `[data, audience, subject, sid, sign-in id]` an audience.
    pub payload: Secret,
    /// Whether the next save begins a sign-in. If there are marks, and no other audience, its time
    /// is then the session's creation time, since marks end the sessions that were created before.
    pub signs_in: bool,
    /// Whether an act has changed the payload that the program gave it.
    pub rewritten: bool,
    /// The current audience's place in the payload, or `None` if it is still to be added.
    pub index: Option<usize>,
    /// The places of the parts of a payload that was opened, if it has only the current audience.
    pub sole: Option<Sole>,
    /// JSON of the info, `{audience: {…}}`.
    pub info: Option<Vec<u8>>,
    /// The Set-Cookie lines to send, in order.
    pub lines: Lines,
    /// A failure that did not fail the act, to be logged.
    pub warning: Option<String>,
    /// The cookies of the request that were tried and will never open.
    pub refused: Refused,
    /// The sign-in that the session comes from, if the option `remember_theft` watches it.
    pub line: Option<String>,
}

show_only!(Session { state, meta, remember_meta, remember, forget, index, refused });

impl Session {
    /// A session that was not opened and has no data.
    pub fn new(configuration: &Configuration) -> Self {
        Self {
            state: State::New,
            meta: None,
            remember_meta: None,
            remember: configuration.remember,
            forget: false,
            audience: None,
            payload: Secret::default(),
            signs_in: false,
            rewritten: false,
            index: None,
            sole: None,
            info: None,
            lines: Lines::new(),
            warning: None,
            refused: Refused::default(),
            line: None,
        }
    }

    /// Whether a save of the session also saves the remember cookie.
    pub fn remembers(&self) -> bool {
        self.remember && !self.is_forgotten()
    }

    /// Opens the request's session.
    ///
    /// If its cookie does not open, and a remember cookie does, both are saved anew.
    ///
    /// # Errors
    ///
    /// The session's cookie does not open. If the cookie that does open lacks the audience, the
    /// session is new and has taken over the other audiences.
    pub async fn open(&mut self, context: &Context) -> Result<(), Error> {
        let error = match self.read(context, Kind::Session).await {
            Ok(opened) => return self.take_over(opened),
            Err(error) => error,
        };
        self.refused.session = !error.is_fault();
        if !self.remember {
            return Err(error);
        }
        // Boxed, because it seldom runs, and would make the future of every open larger.
        Box::pin(self.open_by_remember(context, error)).await
    }

    async fn open_by_remember(&mut self, context: &Context, error: Error) -> Result<(), Error> {
        if context.asks_to_be_forgotten().await {
            if context.unsendable.is_none() {
                self.forget_user(context).await;
            }
            return Err(error);
        }
        let opened = match self.read(context, Kind::Remember).await {
            Ok(opened) => opened,
            Err(problem) => {
                self.refused.remember = !problem.is_fault();
                // The session cookie's error would not say that another try may succeed.
                self.warning = problem.is_fault().then(|| problem.to_string());
                self.tell_theft(context, &problem);
                return Err(error);
            }
        };
        if opened.index.is_none() {
            // The next save keeps the other audiences, in both cookies.
            self.remember_meta = Some(Box::new(opened.meta));
            (self.payload, self.info, self.warning) = (opened.payload, opened.info, opened.warning);
            return Err(error);
        }
        if context.unsendable.is_some() {
            // Saving it anew would use up the remember cookie that the browser has.
            return Err(error);
        }
        self.open_remembered(context, opened).await
    }

    async fn open_remembered(&mut self, context: &Context, opened: Opened) -> Result<(), Error> {
        let mut session = Self {
            meta: None,
            remember_meta: Some(Box::new(opened.meta)),
            payload: opened.payload,
            index: opened.index,
            sole: opened.sole,
            info: opened.info,
            warning: opened.warning,
            ..self.clone()
        };
        session.write(context, Kind::Remember).await?;
        let result = session.write(context, Kind::Session).await;
        if result.is_err() {
            // The browser's remember cookie stops working soon, so the browser needs the new one.
            self.lines = session.lines;
            self.remember_meta = session.remember_meta;
            return result;
        }
        session.state = State::Open;
        *self = session;
        self.keep_to_limit(context, Beginning::Remembered).await;
        Ok(())
    }

    fn take_over(&mut self, opened: Opened) -> Result<(), Error> {
        self.meta = Some(opened.meta);
        self.payload = opened.payload;
        self.index = opened.index;
        self.sole = opened.sole;
        self.info = opened.info;
        self.warning = opened.warning;
        if self.index.is_none() {
            self.state = State::New;
            return Err(Error::MissingAudience);
        }
        self.state = State::Open;
        Ok(())
    }

    /// Saves the session under a new id, and the remember cookie too if the user is to be
    /// remembered. If the user asked to be forgotten, deletes the remember cookie.
    ///
    /// # Errors
    ///
    /// The session could not be saved. A failure of the remember cookie is only a warning.
    pub async fn save(&mut self, context: &Context) -> Result<(), Error> {
        context.check_sendable("save")?;
        self.check()?;
        let (was_opened, begins) = (self.meta.is_some(), self.begins(context).await);
        self.signs_in |= !was_opened && self.remember_meta.is_none();
        self.write_session(context).await?;
        self.state = State::Open;
        self.write_remember(context, was_opened).await;
        self.signs_in = false;
        if begins {
            self.keep_to_limit(context, Beginning::Save).await;
        }
        Ok(())
    }

    /// Checks that the session, once it is saved, will open again.
    ///
    /// # Errors
    ///
    /// Data or info that would not be read again.
    fn check(&self) -> Result<(), Error> {
        if self.payload.is_empty() {
            return Err(Error::NoPayload);
        }
        audiences::check(&self.payload, self.index)?;
        self.check_info()
    }

    fn check_info(&self) -> Result<(), Error> {
        let problem = self.info.as_deref().and_then(|info| audiences::check_info(info).err());
        problem.map_or(Ok(()), |_| Err(Error::InvalidInfo))
    }

    async fn write_remember(&mut self, context: &Context, was_opened: bool) {
        if !self.remembers() {
            return;
        }
        if let Err(error) = self.try_to_write_remember(context, was_opened).await {
            self.warning = Some(error.to_string());
        }
    }

    pub(super) async fn try_to_write_remember(&mut self, context: &Context, was_opened: bool) -> Result<(), Error> {
        let is_own = self.remember_meta.is_some();
        if !is_own {
            let found = self.find_remember(context, was_opened).await;
            if let Err(error) = &found {
                self.tell_theft(context, error);
            }
            self.remember_meta = match found {
                // A new sign-in is not affected by a former one that was revoked.
                Err(error) if error.is_theft() && !was_opened => None,
                found => found?.map(Box::new),
            };
            if !was_opened {
                self.begin_line(context)?;
            }
        }
        let result = self.write(context, Kind::Remember).await;
        if result.is_err() && !is_own {
            // It may be another user's.
            self.remember_meta = None;
        }
        result
    }

    /// The request's remember cookie, which the next one continues if it opens. If the session was
    /// opened by its own cookie, the remember cookie is most likely its own too, and is not
    /// decrypted, because deriving its key takes long.
    ///
    /// # Errors
    ///
    /// The storage can't be asked, so the remember cookie stays as it is, or the cookie was copied.
    async fn find_remember(&self, context: &Context, was_opened: bool) -> Result<Option<Meta>, Error> {
        let found = match was_opened {
            true => match context.find_verified(Kind::Remember).await {
                Ok(Some(meta)) if self.is_revoked(context, Kind::Remember, &meta.header).await? => Ok(None),
                found => found,
            },
            false => self.read(context, Kind::Remember).await.map(|opened| Some(opened.meta)),
        };
        match found {
            Err(error) if !error.is_fault() && !error.is_theft() => Ok(None),
            found => found,
        }
    }

    /// Renews the idling offset under the same id, without the storage.
    ///
    /// # Errors
    ///
    /// The session is not open, or the response can't set a cookie.
    pub async fn touch(&mut self, context: &Context) -> Result<(), Error> {
        let (State::Open, Some(meta)) = (self.state, &mut self.meta) else { return Err(Error::TouchNonexistent) };
        context.check_sendable("touch")?;
        let CookieSettings { name, keys, attributes, .. } = context.cookie(Kind::Session);
        let idling_offset = context.now.since(meta.header.save_time());
        let binding = context.binding(meta.header.flags()).await;
        meta.leave_request(&context.cookies);
        meta.header = seal::touch(&meta.header, &keys[meta.key], &binding, idling_offset);
        let line = set_cookie::first(name, &meta.header, &meta.initial_chunk, attributes);
        set_cookie::merge(&mut self.lines, [line]);
        Ok(())
    }

    /// Saves or touches the session if it is time to, else does nothing. Saves the remember cookie
    /// only if a fallback key opens it and the option `renew_fallback` is on.
    ///
    /// # Errors
    ///
    /// The session is not open, or could not be saved or touched.
    pub async fn refresh(&mut self, context: &Context) -> Result<(), Error> {
        if context.configuration.protection.renew_fallback && Box::pin(self.renew(context)).await? {
            return Ok(());
        }
        let (State::Open, Some(meta)) = (self.state, &self.meta) else { return Err(Error::RefreshNonexistent) };
        let (timeouts, touch_threshold) =
            (&context.cookie(Kind::Session).timeouts, context.configuration.touch_threshold);
        match timeouts.refresh(&meta.header, context.now, touch_threshold) {
            Refresh::Save => {
                context.check_sendable("refresh")?;
                self.check()?;
                self.write_session(context).await
            }
            Refresh::Touch => {
                context.check_sendable("refresh")?;
                self.touch(context).await
            }
            Refresh::Nothing => Ok(()),
        }
    }

    /// Saves the session's own cookie, and forgets a user who asked for it.
    async fn write_session(&mut self, context: &Context) -> Result<(), Error> {
        self.write(context, Kind::Session).await?;
        if self.is_forgotten() {
            self.forget_user(context).await;
        }
        Ok(())
    }

    /// Saves the session or its remember cookie if a fallback key opened it and the response can
    /// set cookies. Returns whether it has saved anything.
    async fn renew(&mut self, context: &Context) -> Result<bool, Error> {
        let (State::Open, Some(meta), None) = (self.state, &self.meta, &context.unsendable) else { return Ok(false) };
        let by_fallback = context.is_to_be_renewed(Kind::Session, meta);
        let remembered = self.find_fallback_remember(context).await;
        if !by_fallback && remembered.is_none() {
            return Ok(false);
        }
        self.check()?;
        self.write_session(context).await?;
        if let Some(meta) = remembered {
            self.remember_meta = Some(Box::new(meta));
            if let Err(error) = self.write(context, Kind::Remember).await {
                // It may be another user's.
                self.remember_meta = None;
                self.warning = Some(error.to_string());
            }
        }
        Ok(true)
    }

    /// The remember cookie of the request, if it is to be renewed. It is not if the storage can't
    /// be asked for its record.
    async fn find_fallback_remember(&mut self, context: &Context) -> Option<Meta> {
        if !self.remembers() || self.remember_meta.is_some() || !context.cookie(Kind::Remember).keys.has_former() {
            return None;
        }
        if !context.verified(Kind::Remember).await.is_some_and(|meta| context.is_to_be_renewed(Kind::Remember, &meta)) {
            return None;
        }
        let found = self.find_remember(context, true).await;
        if let Err(error) = &found {
            self.tell_theft(context, error);
        }
        found.ok().flatten()
    }

    /// Drops the current audience. If it is the last one, destroys the session.
    ///
    /// # Errors
    ///
    /// The session is not open, or its records could not be saved or deleted.
    pub async fn logout(&mut self, context: &Context) -> Result<(), Error> {
        if self.state != State::Open {
            Box::pin(self.end_unopened_instance(context, true)).await?;
            return Err(Error::LogoutNonexistent);
        }
        let entries = audiences::entries(&self.payload)?;
        if entries.len() <= 1 {
            return self.destroy(context).await;
        }
        context.check_sendable("logout")?;
        audiences::check(&self.payload, self.index)?;
        let others = entries.iter().enumerate().filter(|(index, _)| Some(*index) != self.index);
        let payload = audiences::join(others.map(|(_, entry)| entry));
        let mut session =
            Self { payload, rewritten: true, index: None, audience: self.current_audience(), ..self.clone() };
        session.drop_info_of_others()?;
        if let Some(meta) = &self.meta {
            Box::pin(self.mark_own_sign_in(context, &meta.header)).await?;
        }
        self.delete_other_sessions(context).await?;
        session.write(context, Kind::Session).await?;
        session.leave_remembered(context).await;
        session.state = State::Closed;
        *self = session;
        Ok(())
    }

    /// Deletes the session's record and clears its cookies. Does the same to the remember cookie,
    /// whether or not the user is to be remembered.
    ///
    /// A record is deleted even if the response can't clear the cookies any more, because then they
    /// name nothing.
    ///
    /// # Errors
    ///
    /// The session is not open, or the storage failed. No cookie is cleared then, and destroying
    /// the session again deletes what is left.
    pub async fn destroy(&mut self, context: &Context) -> Result<(), Error> {
        let (State::Open, Some(meta)) = (self.state, &self.meta) else {
            Box::pin(self.end_unopened_instance(context, false)).await?;
            return Err(Error::DestroyNonexistent);
        };
        if !context.ends_copies() {
            context.check_sendable("destroy")?;
        }
        // First, because no copy may open once a cookie is cleared.
        Box::pin(self.mark_sign_ins(context, &meta.header)).await?;
        let mut lines = self.erase(context, Kind::Session, meta).await?;
        self.delete_other_sessions(context).await?;
        self.delete_remembered(context).await?;
        lines.extend(self.clear_remembered(context));
        if context.unsendable.is_none() {
            set_cookie::merge(&mut self.lines, lines);
        }
        self.state = State::Closed;
        Ok(())
    }

    async fn delete_other_sessions(&self, context: &Context) -> Result<(), Error> {
        if !context.ends_copies() {
            return Ok(());
        }
        // Boxed, because it seldom has anything to do.
        Box::pin(self.delete_others(context, Kind::Session, self.meta.as_ref().map(|meta| meta.header.sid()))).await
    }

    /// Rewrites the info in the session's record and in the remember cookie's. The ids stay, so no
    /// cookie is set.
    ///
    /// # Errors
    ///
    /// The info is not valid, the record is gone, or the storage failed.
    pub async fn save_info(&mut self, context: &Context) -> Result<(), Error> {
        self.check_info()?;
        let Some(info) = self.info.clone() else { return Ok(()) };
        if let Some(meta) = &self.meta
            && !context.store_info(Kind::Session, meta, &info).await?
        {
            return Err(Error::InfoOfNobody);
        }
        if self.remembers() {
            // Only a warning, as for the remember cookie's save.
            self.warning =
                Box::pin(self.save_remembered_info(context, &info)).await.err().map(|error| error.to_string());
        }
        Ok(())
    }

    async fn save_remembered_info(&mut self, context: &Context, info: &[u8]) -> Result<(), Error> {
        if self.remember_meta.is_none() {
            self.remember_meta = self.find_own_remember(context).await?.map(Box::new);
        }
        if let Some(meta) = &self.remember_meta {
            context.store_info(Kind::Remember, meta, info).await?;
        }
        Ok(())
    }

    /// The request's remember cookie, if it certainly belongs to the same user. Somebody who
    /// planted another one in this browser could read the info that is written to its record.
    ///
    /// # Errors
    ///
    /// The storage can't be asked, or the cookie was copied.
    async fn find_own_remember(&self, context: &Context) -> Result<Option<Meta>, Error> {
        let entries = audiences::entries(&self.payload).unwrap_or_default();
        let current = self.index.and_then(|index| entries.get(index));
        let Some((audience, subject)) = current.and_then(Entry::owner) else { return Ok(None) };
        let reader = Self { audience: Some(audience.clone().into_owned()), ..Self::new(&context.configuration) };
        let opened = match reader.read(context, Kind::Remember).await {
            Err(error) if error.is_fault() || error.is_theft() => return Err(error),
            Err(_) => return Ok(None),
            Ok(opened) => opened,
        };
        let others = audiences::entries(&opened.payload)?;
        let other = opened.index.and_then(|index| others.get(index)).and_then(Entry::owner);
        let is_same = other.is_some_and(|(_, other)| other == subject);
        Ok(is_same.then_some(opened.meta))
    }

    /// Keeps only the info of the payload's audiences, so that the next user does not get this
    /// one's.
    pub(super) fn drop_info_of_others(&mut self) -> Result<(), Error> {
        let Some(info) = &self.info else { return Ok(()) };
        let entries = audiences::entries(&self.payload)?;
        self.info = audiences::retain_info_of(info, &entries);
        Ok(())
    }
}

impl Context {
    /// Whether a refresh saves what a former key opened. It does so once a minute at most, or once
    /// in `touch_threshold`, because while the secrets of several servers change, each server's key
    /// is another one's fallback.
    fn is_to_be_renewed(&self, kind: Kind, meta: &Meta) -> bool {
        let pause = self.configuration.touch_threshold.min(Seconds::from_secs(60));
        self.cookie(kind).keys.is_former(meta.key) && self.now.since(meta.header.save_time()) >= pause
    }
}
