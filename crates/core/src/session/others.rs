//! The request's other sessions: a browser may have several cookies of one name, with other paths
//! or domains.

use super::name::Name;
use super::reading::Opened;
use super::{Context, Error, Kind, Session, audiences};
use crate::cookie::Header;

impl Session {
    /// Ends the sessions of the request's cookies of that kind that would sign the current
    /// audience in again after it has left, except for the one with the id `own`. The response
    /// cannot clear the cookies of other paths and domains.
    ///
    /// # Errors
    ///
    /// The storage failed.
    pub(super) async fn delete_others(&self, context: &Context, kind: Kind, own: Option<&[u8]>) -> Result<(), Error> {
        let reader = Self { audience: self.current_audience(), ..Self::new(&context.configuration) };
        for (number, cookie) in context.candidates(kind).enumerate() {
            if Header::decode(cookie).is_ok_and(|header| Some(header.sid()) == own) {
                continue;
            }
            match reader.read_candidate(context, kind, cookie, number).await {
                Ok(Opened { meta, payload, index: Some(index), .. }) => {
                    let other = Self { payload, index: Some(index), ..Self::new(&context.configuration) };
                    other.mark_own_sign_in(context, &meta.header).await?;
                    other.end(context, kind, &meta.header).await?;
                }
                Err(error) if error.is_fault() => return Err(error),
                _ => {}
            }
        }
        Ok(())
    }

    /// Does the same for remember cookies, except for the one that the next save continues.
    pub(super) async fn delete_other_remembered(&self, context: &Context) -> Result<(), Error> {
        if context.candidates(Kind::Remember).nth(1).is_none() {
            return Ok(());
        }
        let continued = match &self.remember_meta {
            Some(meta) => Some(meta.header.clone()),
            None => context.verified(Kind::Remember).await.map(|meta| meta.header),
        };
        self.delete_others(context, Kind::Remember, continued.as_ref().map(Header::sid)).await
    }

    /// The audience at the current place in the data, or else the audience to open.
    pub(super) fn current_audience(&self) -> Option<Name<'static>> {
        let entries = audiences::entries(&self.payload).unwrap_or_default();
        let current = self.index.and_then(|index| entries.get(index)).and_then(|entry| entry.audience.clone());
        current.map(Name::into_owned).or_else(|| self.audience.clone())
    }
}
