//! The request's other sessions: a browser may have several cookies of one name, of another path or domain.

use super::reading::Opened;
use super::{Act, Error, Kind, Session};
use crate::cookie::Header;

impl Session {
    /// Deletes the records of the request's session cookies that would sign the current audience in again after this
    /// session is destroyed. The response cannot clear the cookies of other paths and domains.
    ///
    /// # Errors
    ///
    /// What the storage said.
    pub(super) async fn delete_other_sessions(&self, act: &Act) -> Result<(), Error> {
        let own = self.meta.as_ref().map(|meta| meta.header.sid());
        for (number, cookie) in act.candidates(Kind::Session).enumerate() {
            if Header::decode(cookie).is_ok_and(|header| Some(header.sid()) == own) {
                continue;
            }
            match self.read_candidate(act, Kind::Session, cookie, number).await {
                Ok(Opened { meta, payload, index: Some(_), .. }) => {
                    let other = Self { payload, ..Self::new(&act.configuration) };
                    other.delete(act, Kind::Session, &meta.header).await?;
                }
                Err(error) if error.is_fault() => return Err(error),
                _ => {}
            }
        }
        Ok(())
    }
}
