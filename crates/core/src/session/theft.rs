//! Remember cookies that were copied (`remember_theft = "revoke"`).
//!
//! A remember cookie that was replaced still opens for `stale_ttl` seconds, for requests under way.
//! If it comes back later, two clients have cookies of the same sign-in, so one of them stole its
//! cookie from the other. It can't be told which one is the thief, so both are signed out.
//!
//! All cookies that come from one sign-in are a *line*. The storage holds notes beside the records.
//! Each is stored under the hash of its kind and of the record or line that it is about, so that no
//! cookie names it:
//!
//! - of a record, `line`: the name of its line, which is random, or the key of the line's first
//!   record;
//! - of a line, `newest`: its last remember record;
//! - of a line, `revoked`: it has ended.
//!
//! The records themselves do not change. A server that does not know of notes opens and replaces
//! them as always, and does not notice if a cookie that it replaced comes back.

use super::error::Cause;
use super::{Context, Error, Kind, Session};
use crate::cookie::keys::sha256;
use crate::cookie::{Header, base64url, set_cookie};
use crate::storage::{Delete, Get, Set};
use crate::time::Seconds;

/// The kind of a note.
#[derive(Clone, Copy)]
enum Note {
    Line,
    Newest,
    Revoked,
}

impl Note {
    /// The key of the note about a record or a line.
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
    /// Begins the line of a sign-in, even if the browser has a remember cookie. If it joined that
    /// cookie's line, somebody who planted the cookie and kept a copy could end the line.
    ///
    /// # Errors
    ///
    /// The operating system has no randomness.
    pub(super) fn begin_line(&mut self, context: &Context) -> Result<(), Error> {
        if context.watches_lines() {
            self.line = Some(base64url::encode(&context.fresh_sid()?));
        }
        Ok(())
    }

    /// Continues the line of the record that a save is about to replace. Returns the record's
    /// header if no line is known.
    ///
    /// A remember cookie holds the session's data, and so stays in the session's line. Otherwise a
    /// thief could move a session to the line of a remember cookie of his own.
    ///
    /// # Errors
    ///
    /// The line was revoked, and the record is deleted; or the storage can't be asked.
    pub(super) async fn continue_line(&mut self, context: &Context, kind: Kind) -> Result<Option<Header>, Error> {
        let Some(meta) = self.meta_of(kind) else { return Ok(None) };
        let header = meta.header.clone();
        let Some(line) = context.check_line(kind, &header).await? else {
            return Ok(self.line.is_none().then_some(header));
        };
        if kind == Kind::Session || self.line.is_none() {
            self.line = Some(line);
        }
        Ok(None)
    }

    /// Notes the line of the record that was saved. A failure is only a warning: the cookie works,
    /// but a copy of it is not noticed.
    pub(super) async fn try_to_note_line(&mut self, context: &Context, kind: Kind, unnoted: Option<Header>) {
        if kind == Kind::Session && self.line.is_none() {
            return;
        }
        if let Err(error) = Box::pin(self.note_line(context, kind, unnoted)).await {
            self.warning = Some(error.to_string());
        }
    }

    /// Notes the line of a record. A remember record whose line is not known begins one, together
    /// with the record that it replaces.
    async fn note_line(&mut self, context: &Context, kind: Kind, unnoted: Option<Header>) -> Result<(), Error> {
        let Some(meta) = self.meta_of(kind) else { return Ok(()) };
        let (key, life) = (context.storage_key(&meta.header), context.life(kind, &meta.header));
        let replaced = unnoted.filter(|_| kind == Kind::Remember).map(|header| context.storage_key(&header));
        let line = self.line.clone().or_else(|| replaced.clone()).unwrap_or_else(|| key.clone());
        self.line = Some(line.clone());
        context.note(Note::Line, &key, &line, life).await?;
        if let Some(replaced) = replaced {
            context.note(Note::Line, &replaced, &line, life).await?;
        }
        if kind == Kind::Remember {
            context.note(Note::Newest, &line, &key, life).await?;
            if let Some(meta) = &self.meta {
                let life = context.life(Kind::Session, &meta.header);
                context.note(Note::Line, &context.storage_key(&meta.header), &line, life).await?;
            }
        }
        Ok(())
    }

    /// Warns that a remember cookie was copied, and clears it.
    pub(super) fn tell_theft(&mut self, context: &Context, error: &Error) {
        if let Some(alarm) = error.alarm() {
            self.warning = Some(alarm);
        }
        if error.is_theft() && context.unsendable.is_none() {
            set_cookie::merge(&mut self.lines, context.clear_carried(Kind::Remember));
        }
    }
}

impl Context {
    /// Whether the lines of sign-ins are noted and checked.
    pub(super) fn watches_lines(&self) -> bool {
        self.configuration.stored && self.configuration.protection.remember_theft
    }

    /// The error if the record of an authentic cookie is absent.
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

    /// Revokes the line of a remember cookie if it was replaced. Returns whether it is the first of
    /// the line that comes back.
    async fn revoke_if_replaced(&self, header: &Header) -> Result<bool, Error> {
        let key = self.storage_key(header);
        let Some(line) = self.noted(Note::Line, &key).await? else { return Ok(false) };
        let Some(newest) = self.noted(Note::Newest, &line).await?.filter(|newest| *newest != key) else {
            return Ok(false);
        };
        if self.noted(Note::Revoked, &line).await?.is_some() {
            return Ok(false);
        }
        // A session of the line may have been saved just now.
        let of_session = self.cookie(Kind::Session).timeouts.record_ttl(Seconds::ZERO, Seconds::ZERO);
        let life = self.life(Kind::Remember, header).max(of_session);
        self.note(Note::Revoked, &line, &line, life).await?;
        // The note ends the line on every server that watches lines. Other servers don't open the
        // newest cookie once its record is gone. If deleting it fails, the alarm counts all the
        // same.
        let _ = self.delete(Kind::Remember, newest).await;
        Ok(true)
    }

    /// The line of an existing record, if it is noted.
    ///
    /// # Errors
    ///
    /// The line was revoked, and the record is deleted if the storage can do that; or the storage
    /// can't be asked.
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

    /// How long a record that was just stored, and its notes, have to be kept.
    fn life(&self, kind: Kind, header: &Header) -> Seconds {
        self.cookie(kind).timeouts.record_ttl(self.now.since(header.creation_time()), Seconds::ZERO)
    }

    /// The key that a note holds, if the storage has the note.
    ///
    /// # Errors
    ///
    /// The storage can't be asked.
    async fn noted(&self, note: Note, about: &str) -> Result<Option<String>, Error> {
        let name = self.cookie(Kind::Remember).name.clone();
        let get = Get { name, key: note.key(about), current_time: self.now };
        let found = self.environment.get(get).await.map_err(|error| Error::Load(error.into()))?;
        let Some(text) = found else { return Ok(None) };
        // Other programs may write to the storage, so text that is not a key does not count.
        let key = text.strip_prefix(b"[\"").and_then(|rest| rest.strip_suffix(b"\"]")).unwrap_or_default();
        let is_key = key.len() == base64url::encoded_size(32) && base64url::is_text(key);
        Ok(String::from_utf8(key.to_vec()).ok().filter(|_| is_key))
    }

    /// Stores a note for that long. It looks like a record, so that every storage can hold it.
    async fn note(&self, note: Note, about: &str, key: &str, ttl: Seconds) -> Result<(), Error> {
        let place = (self.cookie(Kind::Remember).name.clone(), note.key(about));
        let set = Set::alone(place, format!("[\"{key}\"]").into_bytes(), ttl, self.now);
        self.environment.set(set).await.map_err(Error::Store)
    }

    async fn delete(&self, kind: Kind, key: String) -> Result<(), Error> {
        let (name, current_time) = (self.cookie(kind).name.clone(), self.now);
        let delete = Delete { name, key, current_time, owners: Vec::new() };
        self.environment.delete(delete).await.map_err(Error::Delete)
    }
}
