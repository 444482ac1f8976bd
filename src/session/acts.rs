//! The acts on one session: open, save, touch, refresh, logout, destroy.

use std::ops::Range;
use std::rc::Rc;

use super::audiences::{self, Sole};
use super::configuration::Random;
use super::effect::Host;
use super::name::Name;
use super::reading::Opened;
use super::times::{self, Refresh};
use super::{Configuration, Error};
use crate::cookie::header::ENCODED_SIZE;
use crate::cookie::set_cookie::{self, Lines};
use crate::cookie::{self, Flags, Header, seal};
use crate::secret::{Secret, show_only};

/// What an act works with.
#[derive(Clone)]
pub struct Act {
    pub configuration: Rc<Configuration>,
    pub host: Host,
    /// The request's Cookie header; empty if it has none.
    pub cookies: Vec<u8>,
    /// Why the response can't set a cookie any more, if it can't.
    pub unsendable: Option<String>,
    /// Seconds since the Unix epoch.
    pub now: u64,
    pub random: Random,
}

/// A session has a cookie of its own and, where the user is to be remembered, a second one that outlives it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    Session,
    Remember,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum State {
    New,
    Open,
    Closed,
}

/// What is known of a cookie that was opened or saved.
#[derive(Clone, PartialEq)]
pub struct Meta {
    pub header: Header,
    /// Which of the configuration's keys authenticates it.
    pub key: usize,
    /// The payload's start that stands in the first cookie; empty with a storage.
    pub initial_chunk: String,
    /// When it was opened or saved, and so its record certainly existed: seconds since the Unix epoch.
    pub known_at: u64,
    /// Where the value stands in the request's Cookie header, if it was read from there and is still the same.
    pub place: Option<Range<usize>>,
}

show_only!(Meta { header, known_at });

impl Meta {
    /// From the value of the first cookie.
    pub fn from_value(mut value: Vec<u8>, key: usize, known_at: u64) -> Result<Self, Error> {
        let header = Header::decode(&value)?;
        if header.flags().contains(Flags::STORED) {
            // Whatever somebody put behind the header is not ours.
            value.truncate(ENCODED_SIZE);
        }
        value.drain(..ENCODED_SIZE);
        let initial_chunk = String::from_utf8(value).map_err(|_| cookie::Error::InvalidPayload)?;
        Ok(Self { header, key, initial_chunk, known_at, place: None })
    }

    /// The value of the first cookie.
    pub fn value(&self) -> String {
        self.header.encode() + &self.initial_chunk
    }
}

/// Which cookies of a request don't open, for reasons that trying again would not change.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Refused {
    pub session: bool,
    pub remember: bool,
}

/// A session between two acts.
///
/// An act that fails leaves it as it was, but for [`lines`](Self::lines), which hold the cookies of whatever
/// was saved.
#[derive(Clone)]
pub struct Session {
    pub state: State,
    pub meta: Option<Meta>,
    pub remember_meta: Option<Box<Meta>>,
    /// Whether the program wants the user to be remembered.
    pub remember: bool,
    /// Whether this session asked to be forgotten.
    pub forget: bool,
    /// The audience to open, where it is not the configured one.
    pub audience: Option<Name<'static>>,
    /// JSON, one `[data, audience, subject]` an audience.
    pub payload: Secret,
    /// The current audience's place in the payload; `None` where it is to be added.
    pub index: Option<usize>,
    /// The parts of a payload that was opened and has only the current audience; with one it never changes.
    pub sole: Option<Sole>,
    /// JSON of the info store, `{audience: {…}}`.
    pub info: Option<Vec<u8>>,
    /// Set-Cookie lines to send, in order.
    pub lines: Lines,
    /// What failed without failing the act: to be logged.
    pub warning: Option<String>,
    /// The cookies of the request that were tried and are of no more use.
    pub refused: Refused,
}

show_only!(Session { state, meta, remember_meta, remember, forget, index, refused });

impl Session {
    pub fn new(configuration: &Configuration) -> Self {
        Self {
            state: State::New,
            meta: None,
            remember_meta: None,
            remember: configuration.remember,
            forget: false,
            audience: None,
            payload: Secret::default(),
            index: None,
            sole: None,
            info: None,
            lines: Lines::new(),
            warning: None,
            refused: Refused::default(),
        }
    }

    /// Whether the remember cookie goes along with the session's.
    pub fn remembers(&self) -> bool {
        let opened = self.meta.as_ref().is_some_and(|meta| meta.header.flags().contains(Flags::FORGET));
        self.remember && !self.forget && !opened
    }

    /// Opens the request's session.
    ///
    /// Where its cookie does not open, and a remember cookie does, both are saved anew.
    ///
    /// # Errors
    ///
    /// Why the session's cookie does not open. With [`Error::MissingAudience`], or if the remember
    /// cookie opens but lacks the audience, the session is new and has taken over the other
    /// audiences.
    pub async fn open(&mut self, act: &Act) -> Result<(), Error> {
        let error = match self.read(act, Kind::Session).await {
            Ok(opened) => return self.take_over(opened),
            Err(error) => error,
        };
        self.refused.session = !error.is_fault();
        if !self.remember {
            return Err(error);
        }
        // Boxed: what seldom runs would make the future of every open large.
        Box::pin(self.open_by_remember(act, error)).await
    }

    async fn open_by_remember(&mut self, act: &Act, error: Error) -> Result<(), Error> {
        let opened = match self.read(act, Kind::Remember).await {
            Ok(opened) => opened,
            Err(problem) => {
                self.refused.remember = !problem.is_fault();
                // The session cookie's error does not say that another try may help.
                self.warning = problem.is_fault().then(|| problem.to_string());
                return Err(error);
            }
        };
        if opened.index.is_none() {
            // The next save keeps the other audiences, in both cookies.
            self.remember_meta = Some(Box::new(opened.meta));
            (self.payload, self.info) = (opened.payload, opened.info);
            return Err(error);
        }
        if act.unsendable.is_some() {
            // Saving it anew would use up the remember cookie that the browser has.
            return Err(error);
        }
        self.open_remembered(act, opened).await
    }

    async fn open_remembered(&mut self, act: &Act, opened: Opened) -> Result<(), Error> {
        let mut session = Self {
            meta: None,
            remember_meta: Some(Box::new(opened.meta)),
            payload: opened.payload,
            index: opened.index,
            sole: opened.sole,
            info: opened.info,
            ..self.clone()
        };
        session.write(act, Kind::Remember).await?;
        let result = session.write(act, Kind::Session).await;
        if result.is_err() {
            // The remember cookie that the browser has stops working soon: it needs the new one all the same.
            self.lines = session.lines;
            self.remember_meta = session.remember_meta;
            return result;
        }
        session.state = State::Open;
        *self = session;
        Ok(())
    }

    fn take_over(&mut self, opened: Opened) -> Result<(), Error> {
        self.meta = Some(opened.meta);
        self.payload = opened.payload;
        self.index = opened.index;
        self.sole = opened.sole;
        self.info = opened.info;
        if self.index.is_none() {
            self.state = State::New;
            return Err(Error::MissingAudience);
        }
        self.state = State::Open;
        Ok(())
    }

    /// Saves the session under a new id, and the remember cookie where there is one to be.
    ///
    /// # Errors
    ///
    /// What failed for the session; a failure of the remember cookie is only a warning.
    pub async fn save(&mut self, act: &Act) -> Result<(), Error> {
        act.check_sendable("save")?;
        self.check()?;
        let was_opened = self.meta.is_some();
        self.write(act, Kind::Session).await?;
        self.state = State::Open;
        self.write_remember(act, was_opened).await;
        Ok(())
    }

    /// Whether what is about to be saved will open again.
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

    async fn write_remember(&mut self, act: &Act, was_opened: bool) {
        if !self.remembers() {
            return;
        }
        if let Err(error) = self.try_to_write_remember(act, was_opened).await {
            self.warning = Some(error.to_string());
        }
    }

    async fn try_to_write_remember(&mut self, act: &Act, was_opened: bool) -> Result<(), Error> {
        if self.remember_meta.is_none() {
            self.remember_meta = self.find_remember(act, was_opened).await?.map(Box::new);
        }
        self.write(act, Kind::Remember).await
    }

    /// The request's remember cookie, which the next one continues. One that does not open is not continued. Where the
    /// session was opened by its own cookie, the remember cookie is most likely its own too: it is not decrypted,
    /// because deriving its key takes long.
    ///
    /// # Errors
    ///
    /// A storage that can't be asked: the remember cookie stays as it is.
    async fn find_remember(&self, act: &Act, was_opened: bool) -> Result<Option<Meta>, Error> {
        let found = match was_opened {
            true => act.find_verified(Kind::Remember).await,
            false => self.read(act, Kind::Remember).await.map(|opened| Some(opened.meta)),
        };
        match found {
            Err(error) if !error.is_fault() => Ok(None),
            found => found,
        }
    }

    /// Renews the idling offset; same id, and no storage is asked.
    pub async fn touch(&mut self, act: &Act) -> Result<(), Error> {
        let (State::Open, Some(meta)) = (self.state, &mut self.meta) else { return Err(Error::TouchNonexistent) };
        act.check_sendable("touch")?;
        let configuration = &act.configuration;
        let idling_offset = u64::try_from(times::elapsed(&meta.header, act.now).rolling).unwrap_or(0);
        let binding = act.binding(meta.header.flags()).await;
        meta.header = seal::touch(&meta.header, act.key(meta.key), &binding, idling_offset);
        let (name, attributes) = (&configuration.cookie_name, &configuration.attributes);
        meta.place = None;
        let line = set_cookie::first(name, &meta.header, &meta.initial_chunk, attributes);
        set_cookie::merge(&mut self.lines, [line]);
        Ok(())
    }

    /// Saves or touches where it is time to, else does nothing. Only the session's own cookie is saved.
    pub async fn refresh(&mut self, act: &Act) -> Result<(), Error> {
        let (State::Open, Some(meta)) = (self.state, &self.meta) else { return Err(Error::RefreshNonexistent) };
        let configuration = &act.configuration;
        match configuration.timeouts.refresh(&meta.header, act.now, configuration.touch_threshold) {
            Refresh::Save => {
                act.check_sendable("refresh")?;
                self.check()?;
                self.write(act, Kind::Session).await
            }
            Refresh::Touch => {
                act.check_sendable("refresh")?;
                self.touch(act).await
            }
            Refresh::Nothing => Ok(()),
        }
    }

    /// Drops the current audience; the last one takes the whole session along.
    pub async fn logout(&mut self, act: &Act) -> Result<(), Error> {
        if self.state != State::Open {
            Box::pin(self.clear_unopened(act)).await;
            return Err(Error::LogoutNonexistent);
        }
        let entries = audiences::entries(&self.payload)?;
        if entries.len() <= 1 {
            return self.destroy(act).await;
        }
        act.check_sendable("logout")?;
        audiences::check(&self.payload, self.index)?;
        let others = entries.iter().enumerate().filter(|(index, _)| Some(*index) != self.index);
        let payload = audiences::join(others.map(|(_, entry)| entry));
        let mut session = Self { payload, index: None, ..self.clone() };
        session.drop_info_of_others()?;
        session.write(act, Kind::Session).await?;
        session.write_remember(act, true).await;
        session.state = State::Closed;
        *self = session;
        Ok(())
    }

    /// Deletes the session's record and clears its cookies, and the remember cookie's where there is one.
    ///
    /// A record is deleted even if the response can't clear the cookies any more: they name nothing then.
    ///
    /// # Errors
    ///
    /// What the storage said; no cookie is cleared then, and destroying again makes good what is missing.
    pub async fn destroy(&mut self, act: &Act) -> Result<(), Error> {
        let (State::Open, Some(meta)) = (self.state, &self.meta) else {
            Box::pin(self.clear_unopened(act)).await;
            return Err(Error::DestroyNonexistent);
        };
        if !act.configuration.stored {
            act.check_sendable("destroy")?;
        }
        let mut lines = self.erase(act, Kind::Session, meta).await?;
        if self.remembers() {
            lines.extend(self.erase_remember(act).await?);
        }
        if act.unsendable.is_none() {
            set_cookie::merge(&mut self.lines, lines);
        }
        self.state = State::Closed;
        Ok(())
    }

    /// Deletes the record of a remember cookie from which the session can't be opened because the response can't set
    /// cookies any more. With `alone`, only if the current audience is its only one. Returns whether there was one.
    pub async fn destroy_remembered(&mut self, act: &Act, alone: bool) -> Result<bool, Error> {
        if !act.configuration.stored || act.unsendable.is_none() || !self.remember {
            return Ok(false);
        }
        let Ok(opened) = self.read(act, Kind::Remember).await else { return Ok(false) };
        let audiences = audiences::entries(&opened.payload)?.len();
        if opened.index.is_none() || alone && audiences > 1 {
            return Ok(false);
        }
        self.erase_remember(act).await.map(|_| true)
    }

    /// Clears the cookies of the request that don't open, for an instance that may not have tried to.
    async fn clear_unopened(&mut self, act: &Act) {
        let refuses = |error: &Error| !error.is_fault();
        self.refused.session = self.read(act, Kind::Session).await.is_err_and(|error| refuses(&error));
        if self.remember {
            self.refused.remember = self.read(act, Kind::Remember).await.is_err_and(|error| refuses(&error));
        }
        self.clear_refused(act);
    }

    /// Clears the cookies of the request that don't open.
    pub fn clear_refused(&mut self, act: &Act) {
        for (kind, refused) in [(Kind::Session, self.refused.session), (Kind::Remember, self.refused.remember)] {
            if refused && act.unsendable.is_none() {
                set_cookie::merge(&mut self.lines, act.clear_carried(kind));
            }
        }
    }

    /// Writes the record's info anew, and the remember record's: no cookie, no new id.
    pub async fn save_info(&mut self, act: &Act) -> Result<(), Error> {
        self.check_info()?;
        let Some(info) = self.info.clone() else { return Ok(()) };
        if let Some(meta) = &self.meta
            && !act.store_info(Kind::Session, meta, &info).await?
        {
            return Err(Error::InfoOfNobody);
        }
        if !self.remembers() {
            return Ok(());
        }
        let found = match &self.remember_meta {
            Some(meta) => Some(Meta::clone(meta)),
            None => act.verified(Kind::Remember).await.into_iter().next(),
        };
        if let Some(meta) = found {
            // Only a warning, as for the remember cookie's save.
            self.warning = act.store_info(Kind::Remember, &meta, &info).await.err().map(|error| error.to_string());
        }
        Ok(())
    }

    /// Keeps the info of the payload's audiences only: another user's must not wait for who comes next.
    pub(super) fn drop_info_of_others(&mut self) -> Result<(), Error> {
        let Some(info) = &self.info else { return Ok(()) };
        let entries = audiences::entries(&self.payload)?;
        self.info = audiences::retain_info(info, |key| audiences::has_info(&entries, key));
        Ok(())
    }
}
