//! The sessions of a subject: listing them, and ending them.
//!
//! A storage with metadata knows them by the cookie's name, the audience and the subject. Remember
//! records are kept apart under the remember cookie's name, and would sign a browser in again, so
//! what ends sessions ends those too, and first.

use std::cmp::Reverse;

use super::error::Cause;
use super::name::Name;
use super::revocation::{Revoked, revoke};
use super::{Context, Error, Kind, Session, State, audiences};
use crate::cookie::keys::sha256;
use crate::cookie::{Sid, base64url};
use crate::secret::show_only;
use crate::storage::{Delete, LiveSession, NAMED_MARKS, Owner, Sessions};
use crate::time::{Seconds, Timestamp};

/// How many records one request to the storage deletes. Between two of them, other requests have
/// their turn; and each has the whole time limit of a request.
const BATCH: usize = 128;
/// How often the sessions of a subject are looked for again, to end those that were saved
/// meanwhile.
const MAX_ROUNDS: usize = 3;

const LIST: &str = "list sessions";
const REVOKE: &str = "revoke sessions";
const REVOKE_ID: &str = "revoke session";
const REVOKE_OTHERS: &str = "revoke other sessions";

/// The sessions of a subject, the one that expires last first.
///
/// Whoever holds it takes them one by one, so that thousands need not be looked at in one go.
pub struct List {
    sessions: std::vec::IntoIter<LiveSession>,
    /// The keys of the request's own sessions.
    carried: Vec<String>,
}

/// One of a subject's sessions.
#[derive(Clone, PartialEq, Eq)]
pub struct ListedSession {
    /// The key of its record.
    pub id: String,
    /// When its record expires.
    pub expiry: Timestamp,
    /// Whether the request carries its cookie.
    pub current: bool,
}

show_only!(List {});
show_only!(ListedSession { expiry, current });

impl Iterator for List {
    type Item = ListedSession;

    fn next(&mut self) -> Option<ListedSession> {
        let LiveSession { key, expiry } = self.sessions.next()?;
        Some(ListedSession { current: self.carried.contains(&key), id: key, expiry })
    }

    fn size_hint(&self) -> (usize, Option<usize>) {
        self.sessions.size_hint()
    }
}

impl ExactSizeIterator for List {}

/// Lists the sessions of a subject in the configured audience, the one that expires last first.
///
/// # Errors
///
/// No storage notes whose sessions there are, or it failed.
pub async fn list(context: &Context, subject: &Name<'_>) -> Result<List, Error> {
    context.check_metadata(LIST)?;
    let owner = context.owner(&context.configuration.audience, subject);
    let mut sessions = context.sessions(Kind::Session, &owner).await.map_err(failed(LIST))?;
    sessions.sort_by_key(|session| Reverse(session.expiry));
    Ok(List { sessions: sessions.into_iter(), carried: context.carried_keys(Kind::Session).await })
}

/// Ends all sessions of a subject, and what would sign it in again. A mark, which is kept for
/// `ttl`, ends those of all audiences, and also one that a request which is under way saves later.
/// Without a store of marks, those of the configured audience are deleted.
///
/// # Errors
///
/// Neither a store of marks nor metadata are configured, or a storage failed. Doing it again ends
/// what is left.
pub async fn revoke_subject(context: &Context, subject: &Name<'static>, ttl: Seconds) -> Result<(), Error> {
    if context.marks_sessions() || !context.has_metadata() {
        revoke(context, Revoked::Subject(subject.clone()), ttl).await?;
    }
    if !context.has_metadata() {
        return Ok(());
    }
    let owner = context.owner(&context.configuration.audience, subject);
    for _ in 0..MAX_ROUNDS {
        let mut ended = 0;
        for kind in [Kind::Remember, Kind::Session] {
            let sessions = context.sessions(kind, &owner).await.map_err(failed(REVOKE))?;
            ended +=
                context.delete_records(kind, sessions, std::slice::from_ref(&owner)).await.map_err(failed(REVOKE))?;
        }
        if ended == 0 {
            break;
        }
    }
    Ok(())
}

/// Ends a session by its id, or by the key of its record. Ends the remember record of that id, if
/// it is one's. A session in a cookie is marked as revoked.
///
/// A record alone does not tell whose session it is: that is encrypted, and the tag is in the
/// cookie. Metadata stop naming the session if it belongs to the user of the request's own session,
/// or to the configured subject.
///
/// # Errors
///
/// The id starts as only the keys of marks do; sessions are kept in cookies and there is no store
/// of marks; or a storage failed.
pub async fn revoke_id(context: &Context, id: &Sid) -> Result<(), Error> {
    // The mark of such an id would be that of a user, and its record a mark.
    if NAMED_MARKS.iter().any(|start| id.starts_with(start)) {
        return Err(Error::InvalidId);
    }
    let configuration = &context.configuration;
    if !configuration.stored {
        return revoke(context, Revoked::Id(*id), context.longest_life()).await;
    }
    let owners = if configuration.store_metadata { context.likely_owners().await } else { Vec::new() };
    let mut keys = vec![base64url::encode(id)];
    if configuration.hash_storage_key {
        keys.push(base64url::encode(&sha256(id)));
    }
    let deletes = [Kind::Remember, Kind::Session].into_iter().flat_map(|kind| {
        let delete = |key: &String| context.deletion(kind, key.clone(), owners.clone());
        keys.iter().map(delete).collect::<Vec<_>>()
    });
    context.environment.delete_each(deletes.collect()).await.map_err(failed(REVOKE_ID))
}

impl Session {
    /// Ends all other sessions of the current audience's subject, and what would sign other
    /// browsers in again. Returns how many sessions ended, remember records not counted.
    ///
    /// Without metadata, a mark ends all sessions of the subject that exist now, this one too: then
    /// it returns `None`, and the session has to be saved as a new one, in a later second.
    ///
    /// # Errors
    ///
    /// The session is not open or has no subject, neither metadata nor a store of marks are
    /// configured, or a storage failed. Doing it again ends what is left.
    pub async fn revoke_others(&self, context: &Context) -> Result<Option<usize>, Error> {
        if self.state != State::Open {
            return Err(Error::RevokeOthersNonexistent);
        }
        let has_marks = !context.has_metadata() && context.marks_sessions();
        if !has_marks {
            context.check_metadata(REVOKE_OTHERS)?;
        }
        let problem = || failed(REVOKE_OTHERS)(Cause(Some("the session has no subject".to_owned())));
        let (subject, owner) = self.subject_and_owner(context)?.ok_or_else(problem)?;
        if has_marks {
            context.check_sendable("save")?;
            revoke(context, Revoked::Subject(subject), context.longest_life()).await?;
            return Ok(None);
        }
        let end_others = async |kind| {
            let others = self.others(context, kind, &owner).await?;
            context.delete_records(kind, others, std::slice::from_ref(&owner)).await
        };
        end_others(Kind::Remember).await.map_err(failed(REVOKE_OTHERS))?;
        let ended = end_others(Kind::Session).await.map_err(failed(REVOKE_OTHERS))?;
        Ok(Some(ended))
    }

    /// The current audience's subject, and both as metadata hold them, if it has one.
    pub(super) fn subject_and_owner(&self, context: &Context) -> Result<Option<(Name<'static>, Owner)>, Error> {
        let entries = audiences::entries(&self.payload)?;
        let owner = self.index.and_then(|index| entries.get(index)).and_then(audiences::Entry::owner);
        Ok(owner.map(|(audience, subject)| (subject.clone().into_owned(), context.owner(audience, subject))))
    }

    /// The owner's sessions except for this one, or the remember records except for those of this
    /// browser.
    pub(super) async fn others(&self, context: &Context, kind: Kind, owner: &Owner) -> Result<Vec<LiveSession>, Cause> {
        let mut own: Vec<String> = self.meta_of(kind).iter().map(|meta| context.storage_key(&meta.header)).collect();
        if kind == Kind::Remember {
            own.extend(context.carried_keys(kind).await);
        }
        let mut sessions = context.sessions(kind, owner).await?;
        sessions.retain(|session| !own.contains(&session.key));
        Ok(sessions)
    }
}

impl Context {
    /// Whether the storage notes whose session a record is.
    fn has_metadata(&self) -> bool {
        self.configuration.stored && self.configuration.store_metadata
    }

    fn check_metadata(&self, act: &'static str) -> Result<(), Error> {
        let problem = match (self.configuration.stored, self.configuration.store_metadata) {
            (true, true) => return Ok(()),
            (true, false) => "store_metadata is off",
            (false, _) => "nothing lists the sessions that are kept in cookies: it needs a storage",
        };
        Err(failed(act)(Cause(Some(problem.to_owned()))))
    }

    /// Whose session a program ends, most likely: the configured subject's, or that of the user of
    /// the request's session.
    async fn likely_owners(&self) -> Vec<Owner> {
        let configuration = &self.configuration;
        let subject = configuration.subject.as_ref().map(|subject| self.owner(&configuration.audience, subject));
        let mut owners: Vec<Owner> = subject.into_iter().collect();
        let reader = Session::new(configuration);
        if let Ok(opened) = Box::pin(reader.read(self, Kind::Session)).await {
            let entries = audiences::entries(&opened.payload).unwrap_or_default();
            let own = audiences::owners(&entries, configuration.hash_subject);
            owners.extend(own);
            owners.dedup();
        }
        owners
    }

    /// How long any cookie may live that exists now.
    fn longest_life(&self) -> Seconds {
        let life = |kind| self.cookie(kind).timeouts.longest_life();
        life(Kind::Session).max(life(Kind::Remember))
    }

    /// An audience and a subject as metadata hold them.
    fn owner(&self, audience: &Name<'_>, subject: &Name<'_>) -> Owner {
        Owner::new(&audience.text(), &subject.text(), self.configuration.hash_subject)
    }

    /// The keys of the records of the request's cookies that a key authenticates.
    async fn carried_keys(&self, kind: Kind) -> Vec<String> {
        self.authentic(kind).await.iter().map(|header| self.storage_key(header)).collect()
    }

    pub(super) async fn sessions(&self, kind: Kind, owner: &Owner) -> Result<Vec<LiveSession>, Cause> {
        let (name, current_time) = (self.cookie(kind).name.clone(), self.now);
        let sessions = Sessions { name, owner: owner.clone(), current_time };
        let mut sessions = self.environment.sessions(sessions).await.map_err(Cause::from)?;
        // A storage that a program wrote may list others.
        sessions.retain(|session| session.expiry > current_time);
        Ok(sessions)
    }

    /// Deletes records, and returns how many those were.
    pub(super) async fn delete_records(
        &self,
        kind: Kind,
        records: Vec<LiveSession>,
        owners: &[Owner],
    ) -> Result<usize, Cause> {
        let count = records.len();
        let mut records = records.into_iter();
        while records.len() > 0 {
            let batch = records.by_ref().take(BATCH);
            let deletes = batch.map(|record| self.deletion(kind, record.key, owners.to_vec())).collect();
            self.environment.delete_each(deletes).await?;
        }
        Ok(count)
    }

    fn deletion(&self, kind: Kind, key: String, owners: Vec<Owner>) -> Delete {
        Delete { name: self.cookie(kind).name.clone(), key, current_time: self.now, owners }
    }
}

/// The error of an act on the sessions of a subject.
pub(super) fn failed(act: &'static str) -> impl Fn(Cause) -> Error {
    move |cause| Error::Sessions { act, cause }
}
