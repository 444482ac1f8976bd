//! Remember cookies that were copied (`remember_theft = "revoke"`).
//!
//! A remember cookie that was replaced opens for `stale_ttl` seconds more, for requests under way. If it comes back
//! later, then two hold cookies of the same sign-in: one was stolen from the other. Nobody can tell which of the two is
//! the thief, so both are signed out.
//!
//! All cookies that come from one sign-in are a *line*. The storage holds notes beside the records, each under the hash
//! of its kind and of what it is about, so that no cookie names one:
//!
//! - of a record, `line`: the name of the line that it belongs to, which is random, or the key of its first record;
//! - of a line, `newest`: its last remember record;
//! - of a line, `revoked`: it has ended.
//!
//! The records stay as they are. A server that does not know of notes opens and replaces them as always, and a cookie
//! that it replaced comes back unnoticed.

use super::effect::{Delete, Get, Set};
use super::error::Cause;
use super::{Act, Error, Kind, Session};
use crate::cookie::keys::sha256;
use crate::cookie::{Header, base64url, set_cookie};
use crate::time::Seconds;

/// What a note says of the record or the line that it is about.
#[derive(Clone, Copy)]
enum Note {
    Line,
    Newest,
    Revoked,
}

impl Note {
    fn key(self, about: &str) -> String {
        let kind: &[u8] = match self {
            Self::Line => b"line:",
            Self::Newest => b"newest:",
            Self::Revoked => b"revoked:",
        };
        base64url::encode(&sha256(&[kind, about.as_bytes()].concat()))
    }
}

impl Session {
    /// Begins the line of a sign-in, whatever remember cookie the browser has. If it joined that one's line, somebody who
    /// planted the cookie and kept a copy could end it.
    pub(super) fn begin_line(&mut self, act: &Act) -> Result<(), Error> {
        if act.watches_lines() {
            self.line = Some(base64url::encode(&act.fresh_sid()?));
        }
        Ok(())
    }

    /// Continues the line of what a save is about to replace. Returns its header if no line is known.
    ///
    /// What goes into a remember cookie is the session's, and so stays in the session's line. A thief could otherwise
    /// move a session to the line of a remember cookie of his own.
    ///
    /// # Errors
    ///
    /// The line was revoked: what was to be replaced is deleted. Or the storage can't be asked.
    pub(super) async fn continue_line(&mut self, act: &Act, kind: Kind) -> Result<Option<Header>, Error> {
        let Some(meta) = self.meta_of(kind) else { return Ok(None) };
        let header = meta.header.clone();
        let Some(line) = act.check_line(kind, &header).await? else {
            return Ok(self.line.is_none().then_some(header));
        };
        if kind == Kind::Session || self.line.is_none() {
            self.line = Some(line);
        }
        Ok(None)
    }

    /// Notes the line of what was saved. A failure is only a warning: the cookie is good, but a copy of it goes
    /// unnoticed.
    pub(super) async fn try_to_note_line(&mut self, act: &Act, kind: Kind, unnoted: Option<Header>) {
        if kind == Kind::Session && self.line.is_none() {
            return;
        }
        if let Err(error) = Box::pin(self.note_line(act, kind, unnoted)).await {
            self.warning = Some(error.to_string());
        }
    }

    /// A remember record whose line is not known begins one, or does so with the one that it replaces.
    async fn note_line(&mut self, act: &Act, kind: Kind, unnoted: Option<Header>) -> Result<(), Error> {
        let Some(meta) = self.meta_of(kind) else { return Ok(()) };
        let (key, life) = (act.storage_key(&meta.header), act.life(kind, &meta.header));
        let replaced = unnoted.filter(|_| kind == Kind::Remember).map(|header| act.storage_key(&header));
        let line = self.line.clone().or_else(|| replaced.clone()).unwrap_or_else(|| key.clone());
        self.line = Some(line.clone());
        act.note(Note::Line, &key, &line, life).await?;
        if let Some(replaced) = replaced {
            act.note(Note::Line, &replaced, &line, life).await?;
        }
        if kind == Kind::Remember {
            act.note(Note::Newest, &line, &key, life).await?;
            if let Some(meta) = &self.meta {
                let life = act.life(Kind::Session, &meta.header);
                act.note(Note::Line, &act.storage_key(&meta.header), &line, life).await?;
            }
        }
        Ok(())
    }

    /// Warns of a remember cookie that was copied, and clears it.
    pub(super) fn tell_theft(&mut self, act: &Act, error: &Error) {
        if let Some(alarm) = error.alarm() {
            self.warning = Some(alarm);
        }
        if error.is_theft() && act.unsendable.is_none() {
            set_cookie::merge(&mut self.lines, act.clear_carried(Kind::Remember));
        }
    }
}

impl Act {
    pub(super) fn watches_lines(&self) -> bool {
        self.configuration.stored && self.configuration.protection.remember_theft
    }

    /// Why there is no record of a cookie that a key authenticates.
    pub(super) async fn explain_absence(&self, kind: Kind, header: &Header) -> Error {
        if kind == Kind::Session || !self.watches_lines() {
            return Error::Load(Cause(None));
        }
        match self.revoke_if_replaced(header).await {
            Ok(true) => Error::Copied,
            Ok(false) => Error::Load(Cause(None)),
            Err(error) => error,
        }
    }

    /// Revokes the line of a remember cookie that was replaced; whether this is the first that comes back.
    async fn revoke_if_replaced(&self, header: &Header) -> Result<bool, Error> {
        let key = self.storage_key(header);
        let Some(line) = self.noted(Note::Line, &key).await? else { return Ok(false) };
        let Some(newest) = self.noted(Note::Newest, &line).await?.filter(|newest| *newest != key) else {
            return Ok(false);
        };
        if self.noted(Note::Revoked, &line).await?.is_some() {
            return Ok(false);
        }
        // What came from the line may have been saved just now.
        let of_session = self.cookie(Kind::Session).timeouts.record_ttl(Seconds::ZERO, Seconds::ZERO);
        let life = self.life(Kind::Remember, header).max(of_session);
        self.note(Note::Revoked, &line, &line, life).await?;
        // The note ends the line on every server that watches lines. Without its record, the newest cookie does not open
        // on any other server either. If that fails, the alarm counts all the same.
        let _ = self.delete(Kind::Remember, newest).await;
        Ok(true)
    }

    /// The line of a record that is there, if it is noted.
    ///
    /// # Errors
    ///
    /// The line was revoked: the record is deleted, if the storage can do that. Or the storage can't be asked.
    pub(super) async fn check_line(&self, kind: Kind, header: &Header) -> Result<Option<String>, Error> {
        if !self.watches_lines() {
            return Ok(None);
        }
        let key = self.storage_key(header);
        let Some(line) = self.noted(Note::Line, &key).await? else { return Ok(None) };
        if self.noted(Note::Revoked, &line).await?.is_none() {
            return Ok(Some(line));
        }
        let _ = self.delete(kind, key).await;
        Err(Error::Revoked)
    }

    /// How long a record that was just stored, and what is noted of it, has to be kept.
    fn life(&self, kind: Kind, header: &Header) -> Seconds {
        self.cookie(kind).timeouts.record_ttl(self.now.since(header.creation_time()), Seconds::ZERO)
    }

    async fn noted(&self, note: Note, about: &str) -> Result<Option<String>, Error> {
        let name = self.cookie(Kind::Remember).name.clone();
        let get = Get { name, key: note.key(about), current_time: self.now.as_secs() };
        let text = match self.host.get(get).await {
            Ok(text) => text,
            Err(None) => return Ok(None),
            Err(cause) => return Err(Error::Load(Cause(cause))),
        };
        // A storage that somebody else writes to may hold anything: what is not a key is no note.
        let key = text.strip_prefix(b"[\"").and_then(|rest| rest.strip_suffix(b"\"]")).unwrap_or_default();
        let is_key = key.len() == base64url::encoded_size(32) && base64url::is_text(key);
        Ok(String::from_utf8(key.to_vec()).ok().filter(|_| is_key))
    }

    /// Keeps a note for so long. It looks like a record, which every storage can hold.
    async fn note(&self, note: Note, about: &str, key: &str, ttl: Seconds) -> Result<(), Error> {
        let set = Set {
            name: self.cookie(Kind::Remember).name.clone(),
            key: note.key(about),
            value: format!("[\"{key}\"]").into_bytes(),
            ttl: ttl.as_secs(),
            current_time: self.now.as_secs(),
            old_key: None,
            old_must_exist: false,
            stale_ttl: 0,
            metadata: None,
        };
        self.host.set(set).await.map_err(|cause| Error::Store(Cause(cause)))
    }

    async fn delete(&self, kind: Kind, key: String) -> Result<(), Error> {
        let (name, current_time) = (self.cookie(kind).name.clone(), self.now.as_secs());
        let delete = Delete { name, key, current_time, metadata: None };
        self.host.delete(delete).await.map_err(|cause| Error::Delete(Cause(cause)))
    }
}
