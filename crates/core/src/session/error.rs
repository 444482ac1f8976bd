//! What can go wrong with a session. The texts are part of the API: programs match them.

use crate::cookie;
use crate::settings;
use crate::storage;

/// Why an act on a session, or making a configuration, failed.
// Errors inside are boxed, so that a result consists of whole words. If one byte of it tells what
// it holds, it is moved in pieces that overlap, and the processor waits where they are read again:
// that took 5 % of an open.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The cookie itself.
    #[error(transparent)]
    Cookie(Box<cookie::Error>),

    /// The cookie is not kept where the configuration keeps sessions, or is a session's under the
    /// remember cookie's name.
    #[error("invalid session flags")]
    InvalidFlags,
    /// The session is older than a header can say, some 136 years.
    #[error("session lifetime exceeded")]
    LifetimeExceeded,
    /// The session was created too long ago.
    #[error("session absolute timeout exceeded")]
    AbsoluteTimeoutExceeded,
    /// The session was saved too long ago.
    #[error("session rolling timeout exceeded")]
    RollingTimeoutExceeded,
    /// The session was saved or touched too long ago.
    #[error("session idling timeout exceeded")]
    IdlingTimeoutExceeded,
    /// The remember cookie was created too long ago.
    #[error("session remember absolute timeout exceeded")]
    RememberAbsoluteTimeoutExceeded,
    /// The remember cookie was saved too long ago.
    #[error("session remember rolling timeout exceeded")]
    RememberRollingTimeoutExceeded,
    /// The session was created, saved or touched too far in the future.
    #[error("session was {0} more than a day ahead of this server's clock")]
    Ahead(&'static str),
    /// The cookie lacks these bindings, which `require_bind` demands.
    #[error("session is not bound to {0}, as require_bind demands")]
    Unbound(String),
    /// The remember cookie was touched, which remember cookies never are.
    #[error("invalid session idling offset")]
    InvalidIdlingOffset,
    /// The session opens but lacks the audience.
    #[error("missing session audience")]
    MissingAudience,

    /// The session was revoked, or its user, or the sign-in that it comes from.
    #[error("session revoked")]
    SessionRevoked,
    /// The store of marks failed, and `revocation_fail_mode` is `closed`.
    #[error("unable to check session revocation ({0})")]
    CheckRevocation(String),
    /// The store of marks failed when a session ended, and `revocation_fail_mode` is `closed`.
    #[error("unable to mark session revoked ({0})")]
    MarkRevoked(String),
    /// The store of marks failed when a program revoked sessions.
    #[error("unable to revoke session key ({0})")]
    Revoke(String),
    /// A program revokes sessions, and the option `revocation` is not set.
    #[error("session revocation is not enabled")]
    RevocationOff,
    /// The id of the session to revoke is the key of a mark.
    #[error("invalid session id")]
    InvalidId,
    /// The remember cookie comes from a sign-in that was revoked.
    #[error("session remember cookie was revoked, because a copy of it or of a former one was used")]
    Revoked,
    /// The remember cookie was replaced before, so the sign-in that it comes from is revoked now.
    #[error(
        "a remember cookie came back after it had been replaced: it was copied, or the response that replaced it was \
         lost. All that came from the same sign-in is revoked"
    )]
    Copied,
    /// The encryption key could not be derived now.
    #[error("unable to derive the remember cookie's key ({0})")]
    Derive(String),
    /// The record is absent, or the storage failed.
    #[error("unable to load session{0}")]
    Load(Cause),
    /// The record is not JSON of an array of strings.
    #[error("unable to json decode session ({0})")]
    RecordFormat(serde_json::Error),
    /// The record is an empty array.
    #[error("unable to json decode session (array with a ciphertext expected)")]
    RecordShape,
    /// The info is larger than the limit, which is in bytes.
    #[error("session maximum info size exceeded (max_data_size is {0} bytes)")]
    InfoSize(usize),
    /// The record's info is not base64url.
    #[error("unable to base64url decode session info ({0})")]
    InfoEncoding(Box<cookie::base64url::DecodeError>),
    /// The info is not a JSON object of objects.
    #[error("unable to json decode session info ({0})")]
    InfoFormat(&'static str),
    /// The sealed info belongs to another key or record.
    #[error("unable to decrypt session info ({0})")]
    DecryptInfo(Box<cookie::info::Error>),
    /// There is too much info to encrypt.
    #[error("unable to encrypt session info ({0})")]
    EncryptInfo(Box<cookie::info::Error>),
    /// The info is plain, but must be sealed.
    #[error("unable to decrypt session info (it is not sealed, and seal_info = \"only\")")]
    InfoNotSealed,
    /// The session has no data to save.
    #[error("unable to json encode session data")]
    NoPayload,
    /// The payload is not a JSON array of arrays.
    #[error("unable to json decode session data ({0})")]
    PayloadFormat(&'static str),
    /// The data would not open again if they were saved.
    #[error("invalid session data ({0})")]
    InvalidData(&'static str),
    /// The info would not be read again if it was saved.
    #[error("invalid session info (a table of tables expected)")]
    InvalidInfo,
    /// The response can't set a cookie any more.
    #[error("unable to {act} session ({cause})")]
    Unsendable {
        /// What was to be done with the session.
        act: &'static str,
        /// Why no cookie can be set.
        cause: String,
    },
    /// The operating system has no randomness for a session id or a key.
    #[error("unable to generate session id ({0})")]
    Random(getrandom::Error),
    /// The operating system has no randomness for a nonce.
    #[error("unable to generate nonce ({0})")]
    Nonce(getrandom::Error),
    /// The storage failed to store a record.
    #[error("unable to store session data{0}")]
    Store(Cause),
    /// The storage failed to rewrite a record's info.
    #[error("unable to store session info{0}")]
    StoreInfo(Cause),
    /// The record whose info is to be rewritten is gone.
    #[error("unable to store session info (there is no such session any more)")]
    InfoOfNobody,
    /// The storage failed to delete a record.
    #[error("unable to destroy session{0}")]
    Delete(Cause),

    /// The session to touch is not open.
    #[error("unable to touch nonexistent session")]
    TouchNonexistent,
    /// The session to refresh is not open.
    #[error("unable to refresh nonexistent session")]
    RefreshNonexistent,
    /// The session to log out of is not open.
    #[error("unable to logout nonexistent session")]
    LogoutNonexistent,
    /// The session to destroy is not open.
    #[error("unable to destroy nonexistent session")]
    DestroyNonexistent,

    /// The session whose subject's other sessions are to end is not open.
    #[error("unable to revoke other sessions of nonexistent session")]
    RevokeOthersNonexistent,
    /// The sessions of a subject could not be listed or ended.
    #[error("unable to {act}{cause}")]
    Sessions {
        /// What was to be done with them.
        act: &'static str,
        /// What the storage lacks, or its message.
        cause: Cause,
    },

    /// `ikm` does not have 32 bytes.
    #[error("invalid ikm size")]
    IkmSize,
    /// One of `ikm_fallbacks` does not have 32 bytes.
    #[error("invalid ikm size in ikm_fallbacks")]
    IkmFallbackSize,
    /// `revocation_fail_mode` is neither `open` nor `closed`.
    #[error("invalid revocation fail mode")]
    InvalidFailMode,
    /// `bind` holds an unknown word.
    #[error("invalid bind")]
    InvalidBind,
    /// `request_headers` or `response_headers` holds an unknown property.
    #[error("invalid header name")]
    InvalidHeaderName,
    /// The two attributes contradict each other.
    #[error("SameParty session cookies cannot use SameSite=Strict")]
    SamePartyStrict,
    /// An option's value is wrong.
    #[error(transparent)]
    InvalidOption(Box<settings::Error>),
}

impl From<cookie::Error> for Error {
    fn from(error: cookie::Error) -> Self {
        Self::Cookie(Box::new(error))
    }
}

impl From<settings::Error> for Error {
    fn from(error: settings::Error) -> Self {
        Self::InvalidOption(Box::new(error))
    }
}

impl Error {
    /// Whether a remember cookie was copied, or comes from the same sign-in as one that was.
    pub(super) fn is_theft(&self) -> bool {
        matches!(self, Self::Copied | Self::Revoked)
    }

    /// The text to log if a remember cookie was copied. It must be logged at once, because
    /// the next such cookie gets another error.
    pub(super) fn alarm(&self) -> Option<String> {
        matches!(self, Self::Copied).then(|| self.to_string())
    }

    /// Whether a storage, a derivation or the operating system failed, so that another try may
    /// succeed.
    pub(super) fn is_fault(&self) -> bool {
        matches!(
            self,
            Self::Load(Cause(Some(_)))
                | Self::Store(_)
                | Self::Derive(_)
                | Self::Random(_)
                | Self::Nonce(_)
                | Self::CheckRevocation(_)
        )
    }
}

/// A storage's error message, if it has one. It is shown as ` (message)`, or as nothing.
#[derive(Debug)]
pub struct Cause(pub Option<String>);

impl From<storage::Error> for Cause {
    fn from(error: storage::Error) -> Self {
        Self(Some(error.to_string()))
    }
}

impl std::fmt::Display for Cause {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match &self.0 {
            Some(cause) => write!(formatter, " ({cause})"),
            None => Ok(()),
        }
    }
}
