//! How many sessions a subject may have (`max_sessions`): which of them end when another begins.
//!
//! Nothing holds other requests up meanwhile. So of sessions that begin at the same time, each may
//! see all the others, and all must come to the same result: of these, the ones that expire first
//! end, even if that is the one that was just saved. An older one ends before them, whenever it
//! expires.

use super::reading::Opened;
use super::subjects::failed;
use super::{Context, Error, Kind, Session, audiences};
use crate::cookie::Header;
use crate::storage::LiveSession;
use crate::time::{Seconds, Timestamp};

/// Sessions count as saved at the same time if they expire within so many seconds: as long as a
/// slow save may take, and as far as servers' clocks may differ.
const AT_ONCE: Seconds = Seconds::from_secs(10);

const LIMIT: &str = "end the sessions beyond max_sessions";

/// How a session begins.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Beginning {
    /// By a save.
    Save,
    /// By a remember cookie. Other requests of the same browser may do the same now, so nothing
    /// ends that was saved at the same time.
    Remembered,
}

impl Session {
    /// Whether a save begins a session that counts: whether the current audience has a subject, and
    /// the session that is to be replaced, if there is one, is not that subject's in that audience.
    pub(super) async fn begins(&self, context: &Context) -> bool {
        // Boxed, because few programs limit sessions.
        context.configuration.max_sessions.is_some() && Box::pin(self.belongs_to_another(context)).await
    }

    async fn belongs_to_another(&self, context: &Context) -> bool {
        let Ok(Some((_, owner))) = self.subject_and_owner(context) else { return false };
        let Some(mut meta) = self.meta.clone() else { return true };
        meta.leave_request(&context.cookies);
        let reader = Self::new(&context.configuration);
        let replaced = reader.read_candidate(context, Kind::Session, meta.value().as_bytes(), 0).await;
        !replaced.is_ok_and(|Opened { payload, .. }| {
            let entries = audiences::entries(&payload).unwrap_or_default();
            audiences::owners(&entries, context.configuration.hash_subject).contains(&owner)
        })
    }

    /// Ends the sessions of the current audience's subject that are beyond `max_sessions`, after
    /// this one began. Does the same to remember records, which would sign in again the browsers
    /// whose sessions ended. A failure is only a warning.
    pub(super) async fn keep_to_limit(&mut self, context: &Context, beginning: Beginning) {
        let Some(limit) = context.configuration.max_sessions else { return };
        if let Err(error) = Box::pin(self.end_excess(context, limit, beginning)).await {
            self.warning.get_or_insert(error.to_string());
        }
    }

    async fn end_excess(&self, context: &Context, limit: usize, beginning: Beginning) -> Result<(), Error> {
        let Some((_, owner)) = self.subject_and_owner(context)? else { return Ok(()) };
        let Some(own) = self.live(context, Kind::Session) else { return Ok(()) };
        // First, so that whoever is seen among them is seen among the sessions, which are saved
        // earlier.
        let remembered = self.others(context, Kind::Remember, &owner).await.map_err(failed(LIMIT))?;
        let sessions = context.sessions(Kind::Session, &owner).await.map_err(failed(LIMIT))?;
        let was_ended = !sessions.iter().any(|session| session.key == own.key);
        let sessions = excess(sessions, own.expiry, limit, beginning);
        let stays = beginning == Beginning::Remembered || !was_ended && !sessions.iter().any(|one| one.key == own.key);
        let own = self.live(context, Kind::Remember).filter(|_| self.remembers());
        let remembered = match stays {
            // This browser counts as one of them, whether it is remembered or not.
            true => excess(remembered, own.map(|record| record.expiry).unwrap_or_default(), limit - 1, beginning),
            // A session that stays ends those of the others.
            false => own.into_iter().collect(),
        };
        for (kind, records) in [(Kind::Remember, remembered), (Kind::Session, sessions)] {
            context.delete_records(kind, records, std::slice::from_ref(&owner)).await.map_err(failed(LIMIT))?;
        }
        Ok(())
    }

    /// The record that this act has saved.
    fn live(&self, context: &Context, kind: Kind) -> Option<LiveSession> {
        let header = &self.meta_of(kind)?.header;
        Some(LiveSession { key: context.storage_key(header), expiry: context.expiry(kind, header) })
    }
}

impl Context {
    /// When a record expires that was just saved.
    fn expiry(&self, kind: Kind, header: &Header) -> Timestamp {
        let age = self.now.since(header.creation_time());
        self.now + self.cookie(kind).timeouts.record_ttl(age, Seconds::ZERO)
    }
}

/// Those of the records that are more than `limit`. `own` is when the one expires that was just
/// saved.
fn excess(mut records: Vec<LiveSession>, own: Timestamp, limit: usize, beginning: Beginning) -> Vec<LiveSession> {
    let is_at_once = |record: &LiveSession| record.expiry.distance(own) <= AT_ONCE;
    let count = records.len().saturating_sub(limit);
    // Not sorted: with thousands of records, that would hold other requests up.
    if let Some(last) = count.checked_sub(1) {
        records.select_nth_unstable_by(last, |one, other| {
            let place = |record: &LiveSession| (is_at_once(record), record.expiry);
            place(one).cmp(&place(other)).then_with(|| one.key.cmp(&other.key))
        });
    }
    records.truncate(count);
    records.retain(|record| beginning == Beginning::Save || !is_at_once(record));
    records
}
