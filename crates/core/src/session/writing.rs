//! Writing a session: sealing it, storing and deleting its record, and the lines that set its cookies.

use std::rc::Rc;

use super::audiences::{self, Metadata};
use super::effect::{Delete, Get, Set, Update};
use super::error::Cause;
use super::{Act, Error, Kind, Meta, Session, record, times};
use crate::cookie::cipher::OneTimeKey;
use crate::cookie::header::SID_SIZE;
use crate::cookie::keys::sha256;
use crate::cookie::seal::{Binding, Seal, Sealed};
use crate::cookie::set_cookie::{self, Lines};
use crate::cookie::{self, Flags, Header, RememberSafety, Sid, attributes, base64url, chunks, request};
use crate::secret::Secret;

/// A session's payload, the current audience's place in it, and the info.
type Contents = (Secret, Option<usize>, Option<Vec<u8>>);

impl Session {
    /// Seals the payload under a new id, stores it where there is a storage, and adds the cookie's lines.
    pub(super) async fn write(&mut self, act: &Act, kind: Kind) -> Result<(), Error> {
        if self.payload.is_empty() {
            return Err(Error::NoPayload);
        }
        let unnoted = if act.watches_lines() { Box::pin(self.continue_line(act, kind)).await? } else { None };
        let dropped = self.enforce_same_subject(act)?;
        let result = self.write_all(act, kind).await;
        if let (Err(_), Some((payload, index, info))) = (&result, dropped) {
            (self.payload, self.index, self.info) = (payload, index, info);
        }
        if result.is_ok() && act.watches_lines() {
            self.try_to_note_line(act, kind, unnoted).await;
        }
        result
    }

    async fn write_all(&mut self, act: &Act, kind: Kind) -> Result<(), Error> {
        let previous = self.meta_of(kind);
        let sealed = self.seal(act, kind, previous).await?;
        let attributes = act.attributes(kind, sealed.header.creation_time());
        let name = act.name(kind);
        let mut before = 0;
        let (mut lines, initial_size) = if act.configuration.stored {
            self.store(act, kind, &sealed).await?;
            (vec![set_cookie::first(name, &sealed.header, "", &attributes)], 0)
        } else {
            before = previous.map_or(0, |meta| chunks::count(name, meta.header.data_size()).unwrap_or(1));
            set_cookie::sealed(name, &sealed, &attributes)?
        };
        lines.extend(act.clear(kind, lines.len() + 1, before));
        set_cookie::merge(&mut self.lines, lines);
        let Sealed { header, payload: mut initial_chunk } = sealed;
        initial_chunk.truncate(initial_size);
        let meta = Meta { header, key: 0, initial_chunk, known_at: act.now, place: None };
        match kind {
            Kind::Session => self.meta = Some(meta),
            Kind::Remember => self.remember_meta = Some(Box::new(meta)),
        }
        Ok(())
    }

    async fn seal(&self, act: &Act, kind: Kind, previous: Option<&Meta>) -> Result<Sealed, Error> {
        let configuration = &act.configuration;
        self.check_sizes(configuration.max_data_size())?;
        let before = previous.map(|meta| &meta.header);
        let creation_time = before.map_or(act.now, Header::creation_time);
        let forget = self.forget || before.is_some_and(|header| header.flags().contains(Flags::FORGET));
        let sid = act.fresh_sid()?;
        let seal = Seal {
            key: act.key(kind, 0),
            sid,
            encryption: act.encryption(kind, 0, &sid).await?,
            flags: configuration.bind.with(Flags::STORED, configuration.stored).with(Flags::FORGET, forget),
            creation_time,
            rolling_offset: act.now.saturating_sub(creation_time),
            compression_threshold: configuration.compression_threshold,
            binding: &act.binding(configuration.bind).await,
        };
        Ok(seal.seal(&self.payload)?)
    }

    async fn store(&self, act: &Act, kind: Kind, sealed: &Sealed) -> Result<(), Error> {
        let age = act.now.saturating_sub(sealed.header.creation_time());
        let info = self.info.as_deref().map(|info| act.seal_info(kind, 0, &sealed.header, info)).transpose()?;
        let set = Set {
            name: act.name(kind).clone(),
            key: act.storage_key(&sealed.header),
            value: record::encode(sealed.payload.as_bytes(), info.as_deref()),
            ttl: act.timeouts(kind).record_ttl(age, 0),
            current_time: act.now,
            old_must_exist: self.meta_of(kind).is_some_and(|meta| act.must_exist(kind, meta)),
            old_key: self.meta_of(kind).map(|meta| act.storage_key(&meta.header)),
            stale_ttl: act.configuration.stale_ttl,
            metadata: self.metadata(act)?,
        };
        act.host.set(set).await.map_err(|cause| Error::Store(Cause(cause)))
    }

    /// Deletes a record; the lines that clear the cookies.
    pub(super) async fn erase(&self, act: &Act, kind: Kind, meta: &Meta) -> Result<Lines, Error> {
        let name = act.name(kind);
        if !act.configuration.stored {
            let count = chunks::count(name, meta.header.data_size()).unwrap_or(1);
            return Ok(act.clear(kind, 1, count));
        }
        self.delete(act, kind, &meta.header).await?;
        Ok(act.clear(kind, 1, 1))
    }

    /// Deletes a record.
    pub(super) async fn delete(&self, act: &Act, kind: Kind, header: &Header) -> Result<(), Error> {
        let delete = Delete {
            name: act.name(kind).clone(),
            key: act.storage_key(header),
            current_time: act.now,
            // Data that a program replaced with something else don't say whose session it is. Delete it anyway.
            metadata: self.metadata(act).unwrap_or_default(),
        };
        act.host.delete(delete).await.map_err(|cause| Error::Delete(Cause(cause)))
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

    pub(super) fn meta_of(&self, kind: Kind) -> Option<&Meta> {
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

    /// Drops the audiences whose subject is not the current one's, and their info. Returns the former contents if that
    /// changed anything.
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
}

impl Act {
    /// Whether the response can still set cookies.
    ///
    /// # Errors
    ///
    /// Why it can't. `act` is what would have needed one.
    pub(super) fn check_sendable(&self, act: &'static str) -> Result<(), Error> {
        match &self.unsendable {
            Some(cause) => Err(Error::Unsendable { act, cause: cause.clone() }),
            None => Ok(()),
        }
    }

    /// The lines that clear the cookies numbered `first` to `last`, and each chunk from `first` on
    /// that the request carries.
    pub(super) fn clear(&self, kind: Kind, first: usize, last: usize) -> Lines {
        let name = self.name(kind);
        let carried = request::chunk_numbers(&self.cookies, name, self.now).filter(|number| *number > last);
        let numbers = (first..=last).chain(carried.filter(|number| *number >= first));
        set_cookie::expire(name, numbers, &self.configuration.attributes)
    }

    /// The lines that clear whatever cookies of that kind the request carries.
    pub(super) fn clear_carried(&self, kind: Kind) -> Lines {
        let name = self.name(kind);
        let carries_first = request::values(&self.cookies, name).next().is_some();
        self.clear(kind, if carries_first { 1 } else { 2 }, usize::from(carries_first))
    }

    /// Whether the record of a session that is replaced must still be there. One that another save
    /// replaced lives on for `stale_ttl`, so that before that time only a sign-out, or its own end,
    /// can have taken it away.
    fn must_exist(&self, kind: Kind, meta: &Meta) -> bool {
        let (created, age) = (meta.header.creation_time(), meta.header.rolling_offset());
        let end = created.saturating_add(age).saturating_add(self.timeouts(kind).record_ttl(age, 0));
        self.now.saturating_sub(meta.known_at) < self.configuration.stale_ttl && self.now.saturating_add(1) < end
    }

    /// Rewrites a record's info if the record is there. A record that another request destroyed does not come back, and
    /// one that another save replaced does not live longer.
    pub(super) async fn store_info(&self, kind: Kind, meta: &Meta, info: &[u8]) -> Result<bool, Error> {
        let failed = |cause| Error::StoreInfo(Cause(Some(cause)));
        let limit = self.configuration.max_data_size();
        if info.len() > limit {
            return Err(Error::InfoSize(limit));
        }
        let (name, key) = (self.name(kind).clone(), self.storage_key(&meta.header));
        let get = Get { name: name.clone(), key: key.clone(), current_time: self.now };
        let text = match self.host.get(get).await {
            Ok(text) => text,
            Err(None) => return Ok(false),
            Err(Some(cause)) => return Err(failed(cause)),
        };
        let ciphertext = record::decode(text, limit).map_err(|error| failed(error.to_string()))?.ciphertext;
        // It is not authenticated here, and is about to be put between quotes.
        base64url::decode(&ciphertext).map_err(|error| failed(error.to_string()))?;
        let info = self.seal_info(kind, meta.key, &meta.header, info)?;
        let age = self.now.saturating_sub(meta.header.creation_time());
        let update = Update {
            name,
            key,
            value: record::encode(&ciphertext, Some(&info)),
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
    pub(super) async fn binding(&self, flags: Flags) -> Binding {
        if flags.is_bound() { self.host.binding().await } else { Binding::default() }
    }

    /// The key that encrypts the payload of a session id. One that takes long to derive is derived outside.
    pub(super) async fn encryption(&self, kind: Kind, key: usize, sid: &[u8]) -> Result<OneTimeKey, Error> {
        match self.key(kind, key).derivation(sid, self.safety(kind)) {
            None => Ok(self.key(kind, key).encryption(sid, RememberSafety::None)),
            // Boxed, because it seldom runs.
            Some(derivation) => Box::pin(self.host.derive(derivation)).await.map_err(Error::Derive),
        }
    }

    pub(super) fn fresh_sid(&self) -> Result<Sid, Error> {
        let mut sid = [0; SID_SIZE];
        (self.random)(&mut sid).map_err(Error::Random)?;
        Ok(sid)
    }

    pub(super) fn key(&self, kind: Kind, index: usize) -> &cookie::Key {
        &self.configuration.keys.of(kind)[index]
    }

    pub(super) fn name(&self, kind: Kind) -> &Rc<str> {
        match kind {
            Kind::Session => &self.configuration.cookie_name,
            Kind::Remember => &self.configuration.remember_cookie_name,
        }
    }

    pub(super) fn timeouts(&self, kind: Kind) -> &times::Timeouts {
        match kind {
            Kind::Session => &self.configuration.timeouts,
            Kind::Remember => &self.configuration.remember_timeouts,
        }
    }

    pub(super) fn safety(&self, kind: Kind) -> RememberSafety {
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

    pub(super) fn storage_key(&self, header: &Header) -> String {
        match self.configuration.hash_storage_key {
            true => base64url::encode(&sha256(header.sid())),
            false => base64url::encode(header.sid()),
        }
    }
}
