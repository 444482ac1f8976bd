//! What can be wrong with a cookie. The texts are part of the API: programs match them.

use super::base64url::{DecodeError, DecodeSliceError};
use super::cipher::CipherError;
use super::compression::InflateError;

/// Why a cookie does not open, or can't be made.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The request does not carry the cookie.
    #[error("missing session cookie")]
    Missing,
    /// The request carries the first cookie of a session, but not all of its chunks.
    #[error("missing session cookie chunk")]
    MissingChunk,
    /// The value is too short to hold a header.
    #[error("invalid session header")]
    InvalidHeader,
    /// More than a header is in the cookie of a session that is kept in a storage.
    #[error("invalid session header (text behind it)")]
    BehindHeader,
    /// The header is not base64url.
    #[error("unable to base64url decode session header ({0})")]
    HeaderEncoding(DecodeSliceError),
    /// The header's first byte names another format.
    #[error("invalid session cookie type")]
    InvalidType,
    /// None of the keys authenticates the header.
    #[error("invalid session message authentication code")]
    InvalidMac,
    /// The payload does not have the size that the header says.
    #[error("invalid session payload")]
    InvalidPayload,
    /// The payload is not base64url.
    #[error("unable to base64url decode session data ({0})")]
    PayloadEncoding(DecodeError),
    /// The payload does not belong to the header and its key.
    #[error("unable to decrypt session data ({0})")]
    Decrypt(CipherError),
    /// AES-GCM can't encrypt that much data.
    #[error("unable to encrypt session data ({0})")]
    Encrypt(CipherError),
    /// The decrypted payload is not a deflate stream.
    #[error("unable to inflate session data ({0})")]
    Inflate(InflateError),
    /// The payload needs more cookies than a session may have.
    #[error("cookie size limit exceeded")]
    SizeExceeded,
    /// The payload is longer than the header can say.
    #[error("session maximum data size exceeded")]
    DataSizeExceeded,
    /// The data are larger than the limit, which is in bytes.
    #[error("session maximum data size exceeded (max_data_size is {0} bytes)")]
    DataTooLarge(usize),
    /// The session is older than the header can say.
    #[error("session maximum rolling offset exceeded")]
    RollingOffsetExceeded,
    /// The creation time is later than the header can say.
    #[error("session maximum creation time exceeded")]
    CreationTimeExceeded,
}
