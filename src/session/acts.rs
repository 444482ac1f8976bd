//! The acts on one session: open, save, touch, refresh, logout, destroy.

use std::rc::Rc;

use super::audiences::{self, Metadata, Sole};
use super::configuration::Random;
use super::effect::{Delete, Get, Host, Set, Update};
use super::error::Cause;
use super::name::Name;
use super::times::{self, Refresh};
use super::{Configuration, Error, record};
use crate::cookie::header::{ENCODED_SIZE, MAX_DATA_SIZE, SID_SIZE};
use crate::cookie::keys::sha256;
use crate::cookie::seal::{self, Binding, Seal, Sealed};
use crate::cookie::set_cookie::{self, Lines};
use crate::cookie::{self, Flags, Header, RememberSafety, Sid, attributes, base64url, chunks};

/// What an act works with.
#[derive(Clone)]
pub struct Act {
    pub configuration: Rc<Configuration>,
    pub host: Host,
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
#[derive(Clone, Debug, PartialEq)]
pub struct Meta {
    pub header: Header,
    /// Which of the configuration's keys authenticates it.
    pub key: usize,
    /// The payload's start that stands in the first cookie; empty with a storage.
    pub initial_chunk: String,
}

impl Meta {
    /// From the value of the first cookie.
    pub fn from_value(mut value: Vec<u8>, key: usize) -> Result<Self, Error> {
        let header = Header::decode(&value)?;
        if header.flags().contains(Flags::STORED) {
            // Whatever somebody put behind the header is not ours.
            value.truncate(ENCODED_SIZE);
        }
        value.drain(..ENCODED_SIZE);
        let initial_chunk = String::from_utf8(value).map_err(|_| cookie::Error::InvalidPayload)?;
        Ok(Self { header, key, initial_chunk })
    }

    /// The value of the first cookie.
    pub fn value(&self) -> String {
        self.header.encode() + &self.initial_chunk
    }
}

/// A session between two acts.
///
/// An act that fails leaves it as it was, but for [`lines`](Self::lines), which hold the cookies of whatever
/// was saved.
#[derive(Clone, Debug)]
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
    pub payload: Vec<u8>,
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
}

impl Session {
    pub fn new(configuration: &Configuration) -> Self {
        Self {
            state: State::New,
            meta: None,
            remember_meta: None,
            remember: configuration.remember,
            forget: false,
            audience: None,
            payload: Vec::new(),
            index: None,
            sole: None,
            info: None,
            lines: Lines::new(),
            warning: None,
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
    /// Why the session's cookie does not open. With [`Error::MissingAudience`] the session is new, and has
    /// taken over the other audiences.
    pub async fn open(&mut self, act: &Act) -> Result<(), Error> {
        let error = match self.read(act, Kind::Session).await {
            Ok(opened) => return self.take_over(opened),
            Err(error) => error,
        };
        if !self.remember {
            return Err(error);
        }
        // Boxed: what seldom runs would make the future of every open large.
        Box::pin(self.open_by_remember(act, error)).await
    }

    async fn open_by_remember(&mut self, act: &Act, error: Error) -> Result<(), Error> {
        let Ok(opened) = self.read(act, Kind::Remember).await else { return Err(error) };
        if opened.index.is_none() {
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
        self.write(act, Kind::Session).await?;
        self.state = State::Open;
        self.write_remember(act).await;
        Ok(())
    }

    async fn write_remember(&mut self, act: &Act) {
        if !self.remembers() {
            return;
        }
        self.find_remember(act).await;
        if let Err(error) = self.write(act, Kind::Remember).await {
            self.warning = Some(error.to_string());
        }
    }

    /// Renews the idling offset; same id, and no storage is asked.
    pub async fn touch(&mut self, act: &Act) -> Result<(), Error> {
        let (State::Open, Some(meta)) = (self.state, &mut self.meta) else { return Err(Error::TouchNonexistent) };
        let configuration = &act.configuration;
        let idling_offset = u64::try_from(times::elapsed(&meta.header, act.now).rolling).unwrap_or(0);
        let binding = act.binding(meta.header.flags()).await;
        meta.header = seal::touch(&meta.header, act.key(meta.key), &binding, idling_offset);
        let (name, attributes) = (&configuration.cookie_name, &configuration.attributes);
        let line = set_cookie::first(name, &meta.header, &meta.initial_chunk, attributes);
        set_cookie::merge(&mut self.lines, [line]);
        Ok(())
    }

    /// Saves or touches where it is time to, else does nothing. Only the session's own cookie is saved.
    pub async fn refresh(&mut self, act: &Act) -> Result<(), Error> {
        let (State::Open, Some(meta)) = (self.state, &self.meta) else { return Err(Error::RefreshNonexistent) };
        let configuration = &act.configuration;
        match configuration.timeouts.refresh(&meta.header, act.now, configuration.touch_threshold) {
            Refresh::Save => self.write(act, Kind::Session).await,
            Refresh::Touch => self.touch(act).await,
            Refresh::Nothing => Ok(()),
        }
    }

    /// Drops the current audience; the last one takes the whole session along.
    pub async fn logout(&mut self, act: &Act) -> Result<(), Error> {
        if self.state != State::Open {
            return Err(Error::LogoutNonexistent);
        }
        let entries = audiences::entries(&self.payload)?;
        if entries.len() <= 1 {
            return self.destroy(act).await;
        }
        let others = entries.iter().enumerate().filter(|(index, _)| Some(*index) != self.index);
        let payload = audiences::join(others.map(|(_, entry)| entry));
        let mut session = Self { payload, index: None, ..self.clone() };
        session.drop_info_of_others()?;
        session.write(act, Kind::Session).await?;
        session.write_remember(act).await;
        session.state = State::Closed;
        *self = session;
        Ok(())
    }

    /// Deletes the session's record and clears its cookies, and the remember cookie's where there is one.
    ///
    /// # Errors
    ///
    /// What the storage said; no cookie is cleared then, and destroying again makes good what is missing.
    pub async fn destroy(&mut self, act: &Act) -> Result<(), Error> {
        let (State::Open, Some(_)) = (self.state, &self.meta) else { return Err(Error::DestroyNonexistent) };
        let mut lines = self.erase(act, Kind::Session).await?;
        if self.remembers() && self.find_remember(act).await {
            lines.extend(self.erase(act, Kind::Remember).await?);
        }
        set_cookie::merge(&mut self.lines, lines);
        self.state = State::Closed;
        Ok(())
    }

    /// Writes the record's info anew, and the remember record's: no cookie, no new id.
    pub async fn save_info(&mut self, act: &Act) -> Result<(), Error> {
        let Some(info) = self.info.clone() else { return Ok(()) };
        if let Some(meta) = &self.meta
            && !act.store_info(Kind::Session, meta, &info).await?
        {
            return Err(Error::InfoOfNobody);
        }
        if self.remembers()
            && self.find_remember(act).await
            && let Some(meta) = &self.remember_meta
        {
            // Only a warning, as for the remember cookie's save.
            self.warning = act.store_info(Kind::Remember, meta, &info).await.err().map(|error| error.to_string());
        }
        Ok(())
    }

    /// Takes what is needed of the request's remember cookie, if it is good. Whether there is one.
    async fn find_remember(&mut self, act: &Act) -> bool {
        if self.remember_meta.is_none() {
            let verified = act.verify(Kind::Remember).await.ok();
            self.remember_meta =
                verified.map(|(header, key, _)| Box::new(Meta { header, key, initial_chunk: String::new() }));
        }
        self.remember_meta.is_some()
    }

    /// Reads and decrypts a cookie and, with a storage, its record.
    async fn read(&self, act: &Act, kind: Kind) -> Result<Opened, Error> {
        let (header, key, cookie) = act.verify(kind).await?;
        let (sealed, initial_size, info) = if act.configuration.stored {
            let record = act.load(kind, &header).await?;
            record.info.as_deref().map(audiences::check_info).transpose()?;
            (record.ciphertext, 0, record.info)
        } else {
            let mut payload = cookie;
            payload.drain(..ENCODED_SIZE);
            let initial_size = payload.len();
            act.append_chunks(kind, &header, &mut payload).await?;
            (payload, initial_size, None)
        };
        let payload = seal::open(&header, act.key(key), act.safety(kind), &sealed)?;
        let audience = self.audience.as_ref().unwrap_or(&act.configuration.audience);
        let entries = audiences::entries(&payload)?;
        let index = audiences::position(&entries, audience);
        let sole = index.and_then(|_| Sole::of(&payload, &entries));
        let mut initial_chunk = sealed;
        initial_chunk.truncate(initial_size);
        // What was decoded as base64url is text.
        let initial_chunk = String::from_utf8(initial_chunk).map_err(|_| cookie::Error::InvalidPayload)?;
        let meta = Meta { header, key, initial_chunk };
        Ok(Opened { meta, payload, index, sole, info })
    }

    /// Seals the payload under a new id, stores it where there is a storage, and adds the cookie's lines.
    async fn write(&mut self, act: &Act, kind: Kind) -> Result<(), Error> {
        if self.payload.is_empty() {
            return Err(Error::NoPayload);
        }
        let dropped = self.enforce_same_subject(act)?;
        let result = self.write_all(act, kind).await;
        if let (Err(_), Some((payload, index, info))) = (&result, dropped) {
            (self.payload, self.index, self.info) = (payload, index, info);
        }
        result
    }

    async fn write_all(&mut self, act: &Act, kind: Kind) -> Result<(), Error> {
        let previous = self.meta_of(kind);
        let sealed = self.seal(act, kind, previous).await?;
        let attributes = act.attributes(kind, sealed.header.creation_time());
        let name = act.name(kind);
        let meta = if act.configuration.stored {
            self.store(act, kind, &sealed).await?;
            set_cookie::merge(&mut self.lines, [set_cookie::first(name, &sealed.header, "", &attributes)]);
            Meta { header: sealed.header, key: 0, initial_chunk: String::new() }
        } else {
            let (mut lines, first) = set_cookie::sealed(name, &sealed, &attributes)?;
            if let Some(before) = previous {
                let before = chunks::count(name, before.header.data_size()).unwrap_or(1);
                lines.extend(set_cookie::expire(name, lines.len() + 1, before, &act.configuration.attributes));
            }
            set_cookie::merge(&mut self.lines, lines);
            let Sealed { header, mut payload } = sealed;
            payload.truncate(first);
            Meta { header, key: 0, initial_chunk: payload }
        };
        match kind {
            Kind::Session => self.meta = Some(meta),
            Kind::Remember => self.remember_meta = Some(Box::new(meta)),
        }
        Ok(())
    }

    async fn seal(&self, act: &Act, kind: Kind, previous: Option<&Meta>) -> Result<Sealed, Error> {
        let configuration = &act.configuration;
        let before = previous.map(|meta| &meta.header);
        let creation_time = before.map_or(act.now, Header::creation_time);
        let forget = self.forget || before.is_some_and(|header| header.flags().contains(Flags::FORGET));
        let seal = Seal {
            key: act.key(0),
            sid: act.fresh_sid()?,
            flags: configuration.bind.with(Flags::STORED, configuration.stored).with(Flags::FORGET, forget),
            creation_time,
            rolling_offset: act.now.saturating_sub(creation_time),
            safety: act.safety(kind),
            compression_threshold: configuration.compression_threshold,
            binding: &act.binding(configuration.bind).await,
        };
        Ok(seal.seal(&self.payload)?)
    }

    async fn store(&self, act: &Act, kind: Kind, sealed: &Sealed) -> Result<(), Error> {
        let age = act.now.saturating_sub(sealed.header.creation_time());
        let set = Set {
            name: act.name(kind).clone(),
            key: act.storage_key(&sealed.header),
            value: record::encode(sealed.payload.as_bytes(), self.info.as_deref()),
            ttl: act.timeouts(kind).record_ttl(age, 0),
            current_time: act.now,
            old_key: self.meta_of(kind).map(|meta| act.storage_key(&meta.header)),
            stale_ttl: act.configuration.stale_ttl,
            metadata: self.metadata(act)?,
        };
        act.host.set(set).await.map_err(|cause| Error::Store(Cause(cause)))
    }

    /// Deletes the record; the lines that clear the cookies.
    async fn erase(&self, act: &Act, kind: Kind) -> Result<Lines, Error> {
        let Some(meta) = self.meta_of(kind) else { return Ok(Lines::new()) };
        let name = act.name(kind);
        if !act.configuration.stored {
            let count = chunks::count(name, meta.header.data_size()).unwrap_or(1);
            return Ok(set_cookie::expire(name, 1, count, &act.configuration.attributes));
        }
        let delete = Delete {
            name: name.clone(),
            key: act.storage_key(&meta.header),
            current_time: act.now,
            metadata: self.metadata(act)?,
        };
        act.host.delete(delete).await.map_err(|cause| Error::Delete(Cause(cause)))?;
        Ok(set_cookie::expire(name, 1, 1, &act.configuration.attributes))
    }

    fn meta_of(&self, kind: Kind) -> Option<&Meta> {
        match kind {
            Kind::Session => self.meta.as_ref(),
            Kind::Remember => self.remember_meta.as_deref(),
        }
    }

    fn metadata(&self, act: &Act) -> Result<Option<Metadata>, Error> {
        if !act.configuration.store_metadata || self.payload.is_empty() {
            return Ok(None);
        }
        Ok(audiences::metadata(&audiences::entries(&self.payload)?, act.configuration.hash_subject))
    }

    /// Drops the audiences whose subject is not the current one's, and their info. What was before, if that changes anything.
    fn enforce_same_subject(&mut self, act: &Act) -> Result<Option<Contents>, Error> {
        let (true, Some(index)) = (act.configuration.enforce_same_subject, self.index) else { return Ok(None) };
        let entries = audiences::entries(&self.payload)?;
        let Some(subject) = entries.get(index).map(|entry| &entry.subject) else { return Ok(None) };
        if entries.iter().all(|entry| entry.subject == *subject) {
            return Ok(None);
        }
        let dropped = entries[..index].iter().filter(|entry| entry.subject != *subject).count();
        let payload = audiences::join(entries.iter().filter(|entry| entry.subject == *subject));
        let before = (std::mem::replace(&mut self.payload, payload), self.index, self.info.clone());
        self.index = Some(index - dropped);
        self.drop_info_of_others()?;
        Ok(Some(before))
    }

    /// Keeps the info of the payload's audiences only: another user's must not wait for who comes next.
    fn drop_info_of_others(&mut self) -> Result<(), Error> {
        let Some(info) = &self.info else { return Ok(()) };
        let entries = audiences::entries(&self.payload)?;
        self.info = audiences::retain_info(info, |key| audiences::has_info(&entries, key));
        Ok(())
    }
}

/// A session's payload, the current audience's place in it, and the info.
type Contents = (Vec<u8>, Option<usize>, Option<Vec<u8>>);

/// What a good cookie holds.
struct Opened {
    meta: Meta,
    payload: Vec<u8>,
    index: Option<usize>,
    sole: Option<Sole>,
    info: Option<Vec<u8>>,
}

impl Act {
    /// Reads a cookie and checks all that can be checked without its payload: its header, the key that
    /// authenticates it, and its value.
    async fn verify(&self, kind: Kind) -> Result<(Header, usize, Vec<u8>), Error> {
        let cookie = self.host.cookie(self.name(kind).clone()).await.ok_or(cookie::Error::Missing)?;
        let header = Header::decode(&cookie)?;
        if header.flags().contains(Flags::STORED) != self.configuration.stored {
            return Err(Error::InvalidFlags);
        }
        match kind {
            Kind::Session => self.timeouts(kind).check_session(&header, self.now)?,
            Kind::Remember => self.timeouts(kind).check_remember(&header, self.now)?,
        }
        let binding = self.binding(header.flags()).await;
        let key = seal::verify(&header, &self.configuration.keys, &binding)?;
        Ok((header, key, cookie))
    }

    async fn append_chunks(&self, kind: Kind, header: &Header, payload: &mut Vec<u8>) -> Result<(), Error> {
        let name = self.name(kind);
        // More than nine cookies can hold was never written by a save.
        let count = chunks::count(name, header.data_size()).map_err(|_| cookie::Error::InvalidPayload)?;
        for number in 2..=count {
            let chunk = self.host.cookie(chunks::name(name, number).into()).await.ok_or(cookie::Error::MissingChunk)?;
            if payload.len() + chunk.len() > MAX_DATA_SIZE {
                return Err(cookie::Error::InvalidPayload.into());
            }
            payload.extend_from_slice(&chunk);
        }
        Ok(())
    }

    async fn load(&self, kind: Kind, header: &Header) -> Result<record::Record, Error> {
        let get = Get { name: self.name(kind).clone(), key: self.storage_key(header), current_time: self.now };
        let text = self.host.get(get).await.map_err(|cause| Error::Load(Cause(cause)))?;
        record::decode(text)
    }

    /// Writes a record's info anew, if there is a record: one that another request has destroyed does not come back, and
    /// one that another save has replaced lives no longer for it.
    async fn store_info(&self, kind: Kind, meta: &Meta, info: &[u8]) -> Result<bool, Error> {
        let failed = |cause| Error::StoreInfo(Cause(Some(cause)));
        let (name, key) = (self.name(kind).clone(), self.storage_key(&meta.header));
        let get = Get { name: name.clone(), key: key.clone(), current_time: self.now };
        let text = match self.host.get(get).await {
            Ok(text) => text,
            Err(None) => return Ok(false),
            Err(Some(cause)) => return Err(failed(cause)),
        };
        let ciphertext = record::decode(text).map_err(|error| failed(error.to_string()))?.ciphertext;
        // Nobody has authenticated it here, and it is to stand between quotes.
        base64url::decode(&ciphertext).map_err(|error| failed(error.to_string()))?;
        let age = self.now.saturating_sub(meta.header.creation_time());
        let update = Update {
            name,
            key,
            value: record::encode(&ciphertext, Some(info)),
            ttl: self.timeouts(kind).record_ttl(age, age.saturating_sub(meta.header.rolling_offset())),
            current_time: self.now,
        };
        match self.host.update(update).await {
            Ok(()) => Ok(true),
            Err(None) => Ok(false),
            Err(Some(cause)) => Err(failed(cause)),
        }
    }

    /// The values that the flags bind to; those of the request only where they are needed.
    async fn binding(&self, flags: Flags) -> Binding {
        if flags.is_bound() { self.host.binding().await } else { Binding::default() }
    }

    fn fresh_sid(&self) -> Result<Sid, Error> {
        let mut sid = [0; SID_SIZE];
        (self.random)(&mut sid).map_err(Error::Random)?;
        Ok(sid)
    }

    fn key(&self, index: usize) -> &cookie::Key {
        &self.configuration.keys[index]
    }

    fn name(&self, kind: Kind) -> &Rc<str> {
        match kind {
            Kind::Session => &self.configuration.cookie_name,
            Kind::Remember => &self.configuration.remember_cookie_name,
        }
    }

    fn timeouts(&self, kind: Kind) -> &times::Timeouts {
        match kind {
            Kind::Session => &self.configuration.timeouts,
            Kind::Remember => &self.configuration.remember_timeouts,
        }
    }

    fn safety(&self, kind: Kind) -> RememberSafety {
        match kind {
            Kind::Session => RememberSafety::None,
            Kind::Remember => self.configuration.remember_safety,
        }
    }

    fn attributes(&self, kind: Kind, creation_time: u64) -> String {
        let attributes = &self.configuration.attributes;
        match kind {
            Kind::Session => attributes.clone(),
            Kind::Remember => {
                let timeout = self.timeouts(kind).rolling;
                let max_age = if timeout == 0 { attributes::MAX_AGE } else { timeout.min(attributes::MAX_AGE) };
                attributes::persistent(attributes, creation_time, max_age)
            }
        }
    }

    fn storage_key(&self, header: &Header) -> String {
        match self.configuration.hash_storage_key {
            true => base64url::encode(&sha256(header.sid())),
            false => base64url::encode(header.sid()),
        }
    }
}
