//! What tells a session's own cookie from the remember cookie.

use std::borrow::Cow;
use std::rc::Rc;
use std::sync::Arc;

use super::Error;
use super::keys::Keys;
use super::times::{self, Timeout, Timeouts};
use crate::cookie::keys::Derivation;
use crate::cookie::{Flags, Header, Key, RememberSafety, attributes};
use crate::time::Timestamp;

/// A session has a cookie of its own and, if the user is to be remembered, a second one that
/// outlives it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// The session's own cookie, which the browser forgets when it is closed.
    Session,
    /// The remember cookie, which signs the user in again when the session has ended.
    Remember,
}

/// The settings of one of the two cookies.
pub struct CookieSettings {
    pub(super) kind: Kind,
    /// The cookie's name with its prefix.
    pub name: Arc<str>,
    /// The keys that write and read the cookie.
    pub keys: Keys,
    /// The text behind `name=value` in Set-Cookie, without the cookie's expiry.
    pub attributes: Rc<str>,
    /// How long a session lives that this cookie names.
    pub timeouts: Timeouts,
    /// How slowly the encryption keys are derived.
    pub(super) safety: RememberSafety,
}

impl CookieSettings {
    /// Checks that a cookie is not too old, and that its fields fit its name.
    ///
    /// # Errors
    ///
    /// The timeout that has ended, or the field that the other cookie alone may have.
    pub(super) fn check(&self, header: &Header, now: Timestamp) -> Result<(), Error> {
        let remembers = self.kind == Kind::Remember;
        // The cookie of a session that is to be forgotten is a session's, whatever its name.
        if remembers && header.flags().contains(Flags::FORGET) {
            return Err(Error::InvalidFlags);
        }
        times::check_lifetime(header, now)?;
        if let Some(timeout) = self.timeouts.exceeded(header, now) {
            return Err(self.timeout_error(timeout));
        }
        // A remember cookie is never touched.
        if remembers && !header.idling_offset().is_zero() {
            return Err(Error::InvalidIdlingOffset);
        }
        Ok(())
    }

    fn timeout_error(&self, timeout: Timeout) -> Error {
        match (self.kind, timeout) {
            (Kind::Session, Timeout::Absolute) => Error::AbsoluteTimeoutExceeded,
            (Kind::Session, Timeout::Rolling) => Error::RollingTimeoutExceeded,
            (Kind::Remember, Timeout::Absolute) => Error::RememberAbsoluteTimeoutExceeded,
            (Kind::Remember, Timeout::Rolling) => Error::RememberRollingTimeoutExceeded,
            (_, Timeout::Idling) => Error::IdlingTimeoutExceeded,
        }
    }

    /// Whether deriving a session's encryption key takes long.
    pub(super) fn derives_slowly(&self) -> bool {
        self.safety.rounds().is_some()
    }

    /// The derivation of a session's encryption key, if that takes long.
    pub(super) fn derivation(&self, key: &Key, sid: &[u8]) -> Option<Derivation> {
        key.derivation(sid, self.safety)
    }

    /// The text behind `name=value` when the cookie of a session is set that was created then.
    pub(super) fn attributes_at(&self, creation_time: Timestamp) -> Cow<'_, str> {
        match self.kind {
            Kind::Session => Cow::Borrowed(&self.attributes),
            Kind::Remember => {
                attributes::persistent(&self.attributes, creation_time, self.timeouts.longest_life()).into()
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::super::configuration::tests::initial;
    use super::*;
    use crate::cookie::header::Fields;
    use crate::time::Seconds;

    /// The error of a cookie with these flags, so many seconds after its creation.
    fn error(kind: Kind, flags: Flags, age: u64) -> Option<String> {
        let creation_time = Timestamp::from_secs(1_700_000_000);
        let fields = Fields { flags, sid: [0; 32], creation_time, rolling_offset: Seconds::ZERO, data_size: 0 };
        let now = creation_time + Seconds::from_secs(age);
        let configuration = initial(&[]).unwrap();
        let result = configuration.cookie(kind).check(&Header::new(&fields).unwrap(), now);
        result.err().map(|error| error.to_string())
    }

    #[test]
    fn each_cookie_names_its_own_timeout() {
        for (kind, age, expected) in [
            (Kind::Session, 900, None),
            (Kind::Session, 901, Some("session idling timeout exceeded")),
            (Kind::Session, 3601, Some("session rolling timeout exceeded")),
            (Kind::Session, 86_401, Some("session absolute timeout exceeded")),
            (Kind::Remember, 604_800, None),
            (Kind::Remember, 604_801, Some("session remember rolling timeout exceeded")),
            (Kind::Remember, 2_592_001, Some("session remember absolute timeout exceeded")),
            (Kind::Session, 1 << 32, Some("session lifetime exceeded")),
            (Kind::Remember, 1 << 32, Some("session lifetime exceeded")),
        ] {
            assert_eq!(error(kind, Flags::default(), age).as_deref(), expected, "{kind:?} {age}");
        }
    }

    #[test]
    fn a_forgotten_session_is_not_remembered_under_another_name() {
        assert_eq!(error(Kind::Remember, Flags::FORGET, 0).as_deref(), Some("invalid session flags"));
        assert_eq!(error(Kind::Session, Flags::FORGET, 0), None);
    }
}
