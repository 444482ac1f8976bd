//! What can go wrong with a session. The texts are part of the API: programs match them.

use crate::cookie;
use crate::settings;

#[derive(Debug, thiserror::Error)]
pub enum Error {
    #[error(transparent)]
    Cookie(#[from] cookie::Error),

    #[error("invalid session flags")]
    InvalidFlags,
    #[error("session lifetime exceeded")]
    LifetimeExceeded,
    #[error("session absolute timeout exceeded")]
    AbsoluteTimeoutExceeded,
    #[error("session rolling timeout exceeded")]
    RollingTimeoutExceeded,
    #[error("session idling timeout exceeded")]
    IdlingTimeoutExceeded,
    #[error("session remember absolute timeout exceeded")]
    RememberAbsoluteTimeoutExceeded,
    #[error("session remember rolling timeout exceeded")]
    RememberRollingTimeoutExceeded,
    #[error("session was {0} more than a day ahead of this server's clock")]
    Ahead(&'static str),
    #[error("session is not bound to {0}, as require_bind demands")]
    Unbound(String),
    #[error("invalid session idling offset")]
    InvalidIdlingOffset,
    #[error("missing session audience")]
    MissingAudience,

    #[error("session remember cookie was revoked, because a copy of it or of a former one was used")]
    Revoked,
    #[error(
        "a remember cookie came back after it had been replaced: it was copied, or the response that replaced it was \
         lost. All that came from the same sign-in is revoked"
    )]
    Copied,
    #[error("unable to derive the remember cookie's key ({0})")]
    Derive(String),
    #[error("unable to load session{0}")]
    Load(Cause),
    #[error("unable to json decode session ({0})")]
    RecordFormat(serde_json::Error),
    #[error("unable to json decode session (array with a ciphertext expected)")]
    RecordShape,
    #[error("session maximum info size exceeded (max_data_size is {0} bytes)")]
    InfoSize(usize),
    #[error("unable to base64url decode session info ({0})")]
    InfoEncoding(cookie::base64url::DecodeError),
    #[error("unable to json decode session info ({0})")]
    InfoFormat(&'static str),
    #[error("unable to decrypt session info ({0})")]
    DecryptInfo(cookie::info::Error),
    #[error("unable to encrypt session info ({0})")]
    EncryptInfo(cookie::info::Error),
    #[error("unable to decrypt session info (it is not sealed, and seal_info = \"only\")")]
    InfoNotSealed,
    #[error("unable to json encode session data")]
    NoPayload,
    #[error("unable to json decode session data ({0})")]
    PayloadFormat(&'static str),
    #[error("invalid session data ({0})")]
    InvalidData(&'static str),
    #[error("invalid session info (a table of tables expected)")]
    InvalidInfo,
    #[error("unable to {act} session ({cause})")]
    Unsendable { act: &'static str, cause: String },
    #[error("unable to generate session id ({0})")]
    Random(getrandom::Error),
    #[error("unable to generate nonce ({0})")]
    Nonce(getrandom::Error),
    #[error("unable to store session data{0}")]
    Store(Cause),
    #[error("unable to store session info{0}")]
    StoreInfo(Cause),
    #[error("unable to store session info (there is no such session any more)")]
    InfoOfNobody,
    #[error("unable to destroy session{0}")]
    Delete(Cause),

    #[error("unable to touch nonexistent session")]
    TouchNonexistent,
    #[error("unable to refresh nonexistent session")]
    RefreshNonexistent,
    #[error("unable to logout nonexistent session")]
    LogoutNonexistent,
    #[error("unable to destroy nonexistent session")]
    DestroyNonexistent,

    #[error("invalid ikm size")]
    IkmSize,
    #[error("invalid ikm size in ikm_fallbacks")]
    IkmFallbackSize,
    #[error("invalid bind")]
    InvalidBind,
    #[error("invalid header name")]
    InvalidHeaderName,
    #[error("SameParty session cookies cannot use SameSite=Strict")]
    SamePartyStrict,
    #[error(transparent)]
    InvalidOption(#[from] settings::Error),
}

impl Error {
    /// Whether a remember cookie was copied, or comes from the same sign-in as one that was.
    pub fn is_theft(&self) -> bool {
        matches!(self, Self::Copied | Self::Revoked)
    }

    /// What the log must say if a remember cookie was copied, because nothing says it a second time.
    pub(super) fn alarm(&self) -> Option<String> {
        matches!(self, Self::Copied).then(|| self.to_string())
    }

    /// Whether something outside failed, so that the same may succeed another time.
    pub fn is_fault(&self) -> bool {
        matches!(self, Self::Load(Cause(Some(_))) | Self::Store(_) | Self::Derive(_) | Self::Random(_) | Self::Nonce(_))
    }
}

/// A storage's error message, if it has one. Shown as ` (message)`, or as nothing.
#[derive(Debug)]
pub struct Cause(pub Option<String>);

impl std::fmt::Display for Cause {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match &self.0 {
            Some(cause) => write!(formatter, " ({cause})"),
            None => Ok(()),
        }
    }
}
