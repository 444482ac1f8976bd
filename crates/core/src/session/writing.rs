//! Writing a session: how it is sealed, how its record is stored and deleted, and the lines that
//! set its cookies.

use super::audiences;
use super::error::Cause;
use super::{Context, CookieSettings, Error, Kind, Meta, Session, record};
use crate::cookie::cipher::OneTimeKey;
use crate::cookie::header::SID_SIZE;
use crate::cookie::keys::sha256;
use crate::cookie::seal::{Binding, Seal, Sealed};
use crate::cookie::set_cookie::{self, Lines};
use crate::cookie::{self, Flags, Header, Key, RememberSafety, Sid, base64url, chunks, request};
use crate::secret::Secret;
use crate::storage::{Delete, Get, Owner, Set, Update};
use crate::time::Seconds;

/// A session's payload, the current audience's place in it, and the info.
type Contents = (Secret, Option<usize>, Option<Vec<u8>>);

impl Session {
    /// Seals the payload under a new id, stores it if there is a storage, and adds the lines that
    /// set the cookie.
    ///
    /// # Errors
    ///
    /// The session is too large, its line was revoked, or the storage failed.
    pub(super) async fn write(&mut self, context: &Context, kind: Kind) -> Result<(), Error> {
        if self.payload.is_empty() {
            return Err(Error::NoPayload);
        }
        let unnoted = if context.watches_lines() { Box::pin(self.continue_line(context, kind)).await? } else { None };
        let was_rewritten = self.rewritten;
        let dropped = self.enforce_same_subject(context)?;
        // Marks of other audiences' subjects go by the time that the session has had.
        self.signs_in = self.signs_in && context.marks_sessions() && audiences::entries(&self.payload)?.len() == 1;
        let mut unsigned = None;
        let result = match self.begin_sign_in(context) {
            Ok(former) => {
                unsigned = former;
                self.write_all(context, kind).await
            }
            Err(error) => Err(error),
        };
        if result.is_err() {
            self.rewritten = was_rewritten;
            if let Some(payload) = unsigned {
                self.payload = payload;
            }
            if let Some((payload, index, info)) = dropped {
                (self.payload, self.index, self.info) = (payload, index, info);
            }
        }
        if result.is_ok() && context.watches_lines() {
            self.try_to_note_line(context, kind, unnoted).await;
        }
        result
    }

    async fn write_all(&mut self, context: &Context, kind: Kind) -> Result<(), Error> {
        let (cookie, previous) = (context.cookie(kind), self.meta_of(kind));
        let sealed = self.seal(context, cookie, previous).await?;
        let attributes = cookie.attributes_at(sealed.header.creation_time());
        let mut before = 0;
        let (mut lines, initial_size) = if context.configuration.stored {
            self.store(context, kind, &sealed).await?;
            (vec![set_cookie::first(&cookie.name, &sealed.header, "", &attributes)], 0)
        } else {
            before = previous.map_or(0, |meta| chunks::count(&cookie.name, meta.header.data_size()).unwrap_or(1));
            set_cookie::sealed(&cookie.name, &sealed, &attributes)?
        };
        lines.extend(context.clear(kind, lines.len() + 1, before));
        set_cookie::merge(&mut self.lines, lines);
        let Sealed { header, payload: mut initial_chunk } = sealed;
        initial_chunk.truncate(initial_size);
        self.set_meta(kind, Meta { header, key: 0, initial_chunk, known_at: context.now, place: None });
        Ok(())
    }

    async fn seal(&self, context: &Context, cookie: &CookieSettings, previous: Option<&Meta>) -> Result<Sealed, Error> {
        let configuration = &context.configuration;
        self.check_sizes(configuration.max_data_size())?;
        let before = previous.map(|meta| &meta.header);
        let continued = before.filter(|_| !self.signs_in);
        let creation_time = continued.map_or(context.now, Header::creation_time);
        let forget = self.forget || before.is_some_and(|header| header.flags().contains(Flags::FORGET));
        let (key, sid) = (cookie.keys.writing(), context.fresh_sid()?);
        let seal = Seal {
            key,
            sid,
            encryption: context.encryption(cookie, key, &sid).await?,
            flags: configuration.bind.with(Flags::STORED, configuration.stored).with(Flags::FORGET, forget),
            creation_time,
            rolling_offset: context.now.since(creation_time),
            compression_threshold: configuration.compression_threshold,
            binding: &context.binding(configuration.bind).await,
        };
        Ok(seal.seal(&self.payload)?)
    }

    async fn store(&self, context: &Context, kind: Kind, sealed: &Sealed) -> Result<(), Error> {
        let (cookie, replaced) = (context.cookie(kind), self.meta_of(kind));
        let age = context.now.since(sealed.header.creation_time());
        let seal_info = |info| context.seal_info(cookie.keys.writing(), &sealed.header, info);
        let info = self.info.as_deref().map(seal_info).transpose()?;
        let set = Set {
            name: cookie.name.clone(),
            key: context.storage_key(&sealed.header),
            value: record::encode(sealed.payload.as_bytes(), info.as_deref()),
            ttl: cookie.timeouts.record_ttl(age, Seconds::ZERO),
            current_time: context.now,
            old_must_exist: replaced.is_some_and(|meta| context.must_exist(cookie, meta)),
            old_key: replaced.map(|meta| context.storage_key(&meta.header)),
            stale_ttl: context.configuration.stale_ttl,
            owners: self.owners(context)?,
        };
        context.environment.set(set).await.map_err(Error::Store)
    }

    /// Deletes a session's record, or marks its cookie as revoked, and returns the lines that clear
    /// its cookies.
    pub(super) async fn erase(&self, context: &Context, kind: Kind, meta: &Meta) -> Result<Lines, Error> {
        self.end(context, kind, &meta.header).await?;
        let count = match context.configuration.stored {
            true => 1,
            false => chunks::count(&context.cookie(kind).name, meta.header.data_size()).unwrap_or(1),
        };
        Ok(context.clear(kind, 1, count))
    }

    /// Deletes a session's record.
    ///
    /// # Errors
    ///
    /// The storage failed.
    pub(super) async fn delete(&self, context: &Context, kind: Kind, header: &Header) -> Result<(), Error> {
        let delete = Delete {
            name: context.cookie(kind).name.clone(),
            key: context.storage_key(header),
            current_time: context.now,
            // If a program replaced the data, they may not say whose session it is. Delete it
            // anyway.
            owners: self.owners(context).unwrap_or_default(),
        };
        context.environment.delete(delete).await.map_err(Error::Delete)
    }

    fn check_sizes(&self, limit: usize) -> Result<(), Error> {
        if self.payload.len() > limit {
            return Err(cookie::Error::DataTooLarge(limit).into());
        }
        match &self.info {
            Some(info) if info.len() > limit => Err(Error::InfoSize(limit)),
            _ => Ok(()),
        }
    }

    /// What is known of the cookie of that kind.
    pub(super) fn meta_of(&self, kind: Kind) -> Option<&Meta> {
        match kind {
            Kind::Session => self.meta.as_ref(),
            Kind::Remember => self.remember_meta.as_deref(),
        }
    }

    fn set_meta(&mut self, kind: Kind, meta: Meta) {
        match kind {
            Kind::Session => self.meta = Some(meta),
            Kind::Remember => self.remember_meta = Some(Box::new(meta)),
        }
    }

    /// Whose session it is, for storages that list the sessions of a user.
    fn owners(&self, context: &Context) -> Result<Vec<Owner>, Error> {
        if !context.configuration.store_metadata || self.payload.is_empty() {
            return Ok(Vec::new());
        }
        Ok(audiences::owners(&audiences::entries(&self.payload)?, context.configuration.hash_subject))
    }

    /// Drops the audiences of other subjects than the current one, and their info. Returns the
    /// former contents if that changed anything.
    fn enforce_same_subject(&mut self, context: &Context) -> Result<Option<Contents>, Error> {
        let (true, Some(index)) = (context.configuration.enforce_same_subject, self.index) else { return Ok(None) };
        let entries = audiences::entries(&self.payload)?;
        let Some(subject) = entries.get(index).map(|entry| &entry.subject) else { return Ok(None) };
        if entries.iter().all(|entry| entry.subject == *subject) {
            return Ok(None);
        }
        let dropped = entries[..index].iter().filter(|entry| entry.subject != *subject).count();
        let payload = audiences::join(entries.iter().filter(|entry| entry.subject == *subject));
        self.rewritten = true;
        let before = (std::mem::replace(&mut self.payload, payload), self.index, self.info.clone());
        self.index = Some(index - dropped);
        self.drop_info_of_others()?;
        Ok(Some(before))
    }
}

impl Context {
    /// Checks that the response can still set cookies, for an act of that name.
    ///
    /// # Errors
    ///
    /// [`Error::Unsendable`]
    pub(super) fn check_sendable(&self, act: &'static str) -> Result<(), Error> {
        match &self.unsendable {
            Some(cause) => Err(Error::Unsendable { act, cause: cause.clone() }),
            None => Ok(()),
        }
    }

    /// The lines that clear the cookies numbered `first` to `last`, and each chunk from `first` on
    /// that the request carries.
    pub(super) fn clear(&self, kind: Kind, first: usize, last: usize) -> Lines {
        let CookieSettings { name, attributes, .. } = self.cookie(kind);
        let carried = request::chunk_numbers(&self.cookies, name, self.now).filter(|number| *number > last);
        let numbers = (first..=last).chain(carried.filter(|number| *number >= first));
        set_cookie::expire(name, numbers, attributes)
    }

    /// The lines that clear all cookies of that kind that the request carries.
    pub(super) fn clear_carried(&self, kind: Kind) -> Lines {
        let carries_first = request::values(&self.cookies, &self.cookie(kind).name).next().is_some();
        self.clear(kind, if carries_first { 1 } else { 2 }, usize::from(carries_first))
    }

    /// Whether the record of a session that is replaced must still be there. Another save keeps the
    /// record that it replaces for `stale_ttl`. So if it is gone earlier, it was signed out, or its
    /// own life has ended.
    fn must_exist(&self, cookie: &CookieSettings, meta: &Meta) -> bool {
        let ttl = cookie.timeouts.record_ttl(meta.header.rolling_offset(), Seconds::ZERO);
        let end = meta.header.save_time() + ttl;
        self.now.since(meta.known_at) < self.configuration.stale_ttl && self.now + Seconds::from_secs(1) < end
    }

    /// Rewrites a record's info if the record is there, and returns whether it is. A record that
    /// another request destroyed does not come back, and one that another save replaced does not
    /// live longer.
    ///
    /// # Errors
    ///
    /// The info is too large, the record is broken, or the storage failed.
    pub(super) async fn store_info(&self, kind: Kind, meta: &Meta, info: &[u8]) -> Result<bool, Error> {
        let limit = self.configuration.max_data_size();
        if info.len() > limit {
            return Err(Error::InfoSize(limit));
        }
        let (cookie, key) = (self.cookie(kind), self.storage_key(&meta.header));
        let current_time = self.now;
        let get = Get { name: cookie.name.clone(), key: key.clone(), current_time };
        let Some(text) = self.environment.get(get).await.map_err(info_failure)? else { return Ok(false) };
        let ciphertext = self.ciphertext_of(text)?;
        let info = self.seal_info(&cookie.keys[meta.key], &meta.header, info)?;
        let age = self.now.since(meta.header.creation_time());
        let ttl = cookie.timeouts.record_ttl(age, age - meta.header.rolling_offset());
        let value = record::encode(&ciphertext, Some(&info));
        let update = Update { name: cookie.name.clone(), key, value, ttl, current_time };
        self.environment.update(update).await.map_err(info_failure)
    }

    /// A record's ciphertext, which is not authenticated here, and is about to be put between
    /// quotes.
    fn ciphertext_of(&self, record: Vec<u8>) -> Result<Vec<u8>, Error> {
        let limit = self.configuration.max_data_size();
        let ciphertext = record::decode(record, limit).map_err(info_failure)?.ciphertext;
        base64url::decode(&ciphertext).map_err(info_failure)?;
        Ok(ciphertext)
    }

    /// The values of the request that a cookie may be bound to. They are read only if the flags
    /// need them.
    pub(super) async fn binding(&self, flags: Flags) -> Binding {
        if flags.is_bound() { self.environment.binding().await } else { Binding::default() }
    }

    /// The key that encrypts the payload of a session id. One that takes long to derive is derived
    /// outside.
    pub(super) async fn encryption(&self, cookie: &CookieSettings, key: &Key, sid: &[u8]) -> Result<OneTimeKey, Error> {
        match cookie.derivation(key, sid) {
            None => Ok(key.encryption(sid, RememberSafety::None)),
            // Boxed, because it seldom runs.
            Some(derivation) => Box::pin(self.environment.derive(derivation)).await.map_err(Error::Derive),
        }
    }

    /// A new session id.
    ///
    /// # Errors
    ///
    /// The operating system has no randomness.
    pub(super) fn fresh_sid(&self) -> Result<Sid, Error> {
        let mut sid = [0; SID_SIZE];
        (self.random)(&mut sid).map_err(Error::Random)?;
        Ok(sid)
    }

    /// The settings of a cookie.
    pub(super) fn cookie(&self, kind: Kind) -> &CookieSettings {
        self.configuration.cookie(kind)
    }

    /// The key of a session's record.
    pub(super) fn storage_key(&self, header: &Header) -> String {
        match self.configuration.hash_storage_key {
            true => base64url::encode(&sha256(header.sid())),
            false => base64url::encode(header.sid()),
        }
    }
}

fn info_failure(cause: impl std::fmt::Display) -> Error {
    Error::StoreInfo(Cause(Some(cause.to_string())))
}
