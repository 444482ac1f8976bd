//! What a sign-out, and the wish to be forgotten, end besides the session itself: remember cookies
//! with their records, and cookies that don't open.

use super::audiences;
use super::reading::{Opened, Verified};
use super::{Context, Error, Kind, Session};
use crate::cookie::header::ENCODED_SIZE;
use crate::cookie::set_cookie::{self, Lines};
use crate::cookie::{Flags, Header, chunks};

/// What happens to a remember cookie if the session cookie does not open.
enum Fate {
    /// It is kept, because it may belong to another audience, or its storage can't be asked.
    Stays,
    /// It is cleared, because it will never open.
    IsDead,
    /// It is ended, because it would sign the current audience in again.
    Ends(Box<Opened>),
}

impl Session {
    /// Whether the user asked to be forgotten: in this instance, or when the cookie that it opened
    /// was saved.
    pub(super) fn is_forgotten(&self) -> bool {
        self.forget || self.meta.as_ref().is_some_and(|meta| meta.header.flags().contains(Flags::FORGET))
    }

    /// Deletes the remember records and clears the remember cookies of a user who is not to be
    /// remembered. A storage that fails is only a warning: the browser forgets all the same.
    pub(super) async fn forget_user(&mut self, context: &Context) {
        if let Err(error) = self.forget_remembered(context).await {
            self.warning = Some(error.to_string());
        }
        let lines = self.clear_remembered(context);
        set_cookie::merge(&mut self.lines, lines);
        self.remember_meta = None;
    }

    /// Deletes the remember records, and marks the copies of the remember cookies that came from
    /// the same sign-in.
    async fn forget_remembered(&self, context: &Context) -> Result<(), Error> {
        let carried = context.candidates(Kind::Remember).next().is_some();
        if context.marks_sessions() && (carried || self.remember_meta.is_some()) {
            let entries = audiences::entries(&self.payload).unwrap_or_default();
            Box::pin(context.mark_forgotten(&entries)).await?;
        }
        self.delete_remembered(context).await
    }

    /// Saves the remember cookie without the audience that has just left. If the user is not to be
    /// remembered, or that fails, deletes the cookie, which would bring the audience back.
    pub(super) async fn leave_remembered(&mut self, context: &Context) {
        if self.remembers()
            && context.ends_copies()
            && let Err(error) = Box::pin(self.delete_other_remembered(context)).await
        {
            self.warning = Some(error.to_string());
        }
        let result = if self.remembers() { Some(self.try_to_write_remember(context, true).await) } else { None };
        if matches!(result, Some(Ok(()))) {
            return;
        }
        self.forget_user(context).await;
        if let Some(Err(error)) = result {
            self.warning = Some(error.to_string());
        }
    }

    /// Deletes the record of the remember cookie that this session opened or saved, and those of
    /// the request's remember cookies that a key authenticates, or marks these cookies as revoked.
    /// They need not be opened for that, because somebody who has such a cookie could sign in with
    /// it, and out again.
    pub(super) async fn delete_remembered(&self, context: &Context) -> Result<(), Error> {
        if !context.ends_copies() {
            return Ok(());
        }
        let mut headers: Vec<Header> = self.remember_meta.iter().map(|meta| meta.header.clone()).collect();
        for header in context.authentic(Kind::Remember).await {
            if headers.iter().all(|other| other.sid() != header.sid()) {
                headers.push(header);
            }
        }
        for header in &headers {
            self.end(context, Kind::Remember, header).await?;
        }
        Ok(())
    }

    /// Deletes a session's record, or marks its cookie as revoked.
    ///
    /// # Errors
    ///
    /// The storage failed, or the store of marks did in `closed` mode.
    pub(super) async fn end(&self, context: &Context, kind: Kind, header: &Header) -> Result<(), Error> {
        match context.configuration.stored {
            true => self.delete(context, kind, header).await,
            false => context.mark_id(kind, header).await,
        }
    }

    /// The lines that clear all remember cookies that the browser has.
    pub(super) fn clear_remembered(&self, context: &Context) -> Lines {
        let kind = Kind::Remember;
        match &self.remember_meta {
            None => context.clear_carried(kind),
            Some(_) if context.configuration.stored => context.clear(kind, 1, 1),
            Some(meta) => {
                context.clear(kind, 1, chunks::count(&context.cookie(kind).name, meta.header.data_size()).unwrap_or(1))
            }
        }
    }

    /// Ends what the request carries of a session that does not open: clears the cookies that will
    /// never open. Also ends the remember cookie that would sign the current audience in again,
    /// whatever `remember` says. With `alone`, it stays if it can be remembered without the
    /// audience.
    ///
    /// Returns whether the response can't set cookies, and a remembered session was ended all the
    /// same.
    ///
    /// # Errors
    ///
    /// A record can't be deleted. Its cookie stays, and doing it again deletes what is left.
    pub(super) async fn end_unopened(&mut self, context: &Context, alone: bool) -> Result<bool, Error> {
        let fate = self.fate_after_open(context, alone).await?;
        self.end_what_is_left(context, fate).await
    }

    /// Does the same for an instance, which may not have tried to open anything.
    pub(super) async fn end_unopened_instance(&mut self, context: &Context, alone: bool) -> Result<bool, Error> {
        self.refused.session = self.read(context, Kind::Session).await.is_err_and(|error| !error.is_fault());
        let fate = if self.refused.session { self.fate_of_remembered(context, alone).await? } else { Fate::Stays };
        self.end_what_is_left(context, fate).await
    }

    async fn end_what_is_left(&mut self, context: &Context, fate: Fate) -> Result<bool, Error> {
        let sendable = context.unsendable.is_none();
        if self.refused.session {
            self.end_refused(context).await;
        }
        if self.refused.session && sendable {
            set_cookie::merge(&mut self.lines, context.clear_carried(Kind::Session));
        }
        let ends = match fate {
            Fate::Stays => return Ok(false),
            Fate::IsDead => false,
            Fate::Ends(opened) => {
                let remembered = Self { payload: opened.payload, ..Self::new(&context.configuration) };
                remembered.mark_sign_ins(context, &opened.meta.header).await?;
                true
            }
        };
        self.delete_remembered(context).await?;
        if sendable {
            let lines = self.clear_remembered(context);
            set_cookie::merge(&mut self.lines, lines);
        }
        Ok(!sendable && context.configuration.stored && self.remember && ends)
    }

    /// Ends the session cookies that a key authenticates but that don't open, as those that have
    /// idled for too long: somebody may have used a copy meanwhile. A storage that fails is only a
    /// warning, because these cookies don't open.
    async fn end_refused(&mut self, context: &Context) {
        if !context.ends_copies() {
            return;
        }
        for (number, value) in context.candidates(Kind::Session).enumerate() {
            // A stored session's cookie with anything behind the header is not its cookie.
            if context.configuration.stored && value.len() > ENCODED_SIZE {
                continue;
            }
            let Some(refused) = context.authenticate(Kind::Session, value).await else { continue };
            if let Err(error) = self.end_one_refused(context, &refused, (number, value)).await {
                self.warning = Some(error.to_string());
            }
        }
    }

    async fn end_one_refused(&self, context: &Context, refused: &Verified, place: (usize, &[u8])) -> Result<(), Error> {
        if context.marks_sessions()
            && let Ok(payload) = context.payload_of(Kind::Session, refused, place).await
        {
            let session = Self { payload, ..Self::new(&context.configuration) };
            session.mark_sign_ins(context, refused.header()).await?;
        }
        self.end(context, Kind::Session, refused.header()).await
    }

    async fn fate_after_open(&mut self, context: &Context, alone: bool) -> Result<Fate, Error> {
        if self.refused.remember {
            return Ok(Fate::IsDead);
        }
        // The open has tried it, so it lacks the current audience, or something failed.
        let was_tried = self.remember && context.unsendable.is_none();
        if was_tried || !self.refused.session { Ok(Fate::Stays) } else { self.fate_of_remembered(context, alone).await }
    }

    async fn fate_of_remembered(&mut self, context: &Context, alone: bool) -> Result<Fate, Error> {
        let opened = match self.read(context, Kind::Remember).await {
            Err(error) if error.is_fault() => return Ok(Fate::Stays),
            Err(error) => {
                self.tell_theft(context, &error);
                return Ok(Fate::IsDead);
            }
            Ok(opened) => opened,
        };
        let stays = alone && self.remember && audiences::entries(&opened.payload)?.len() > 1;
        Ok(if opened.index.is_none() || stays { Fate::Stays } else { Fate::Ends(Box::new(opened)) })
    }
}

impl Context {
    /// Whether the end of a session ends copies of its cookie, too.
    pub(super) fn ends_copies(&self) -> bool {
        self.configuration.stored || self.marks_sessions()
    }

    /// Whether the user of the newest session cookie of the request, however old it is, asked to be
    /// forgotten.
    pub(super) async fn asks_to_be_forgotten(&self) -> bool {
        let headers = self.authentic(Kind::Session).await;
        headers
            .iter()
            .max_by_key(|header| header.save_time())
            .is_some_and(|header| header.flags().contains(Flags::FORGET))
    }
}
