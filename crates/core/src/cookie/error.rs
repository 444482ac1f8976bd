//! What can be wrong with a cookie. The texts are part of the API: programs match them.

use super::base64url::{DecodeError, DecodeSliceError};
use super::cipher::CipherError;
use super::compression::InflateError;

#[derive(Debug, thiserror::Error)]
pub enum Error {
    #[error("missing session cookie")]
    Missing,
    #[error("missing session cookie chunk")]
    MissingChunk,
    #[error("invalid session header")]
    InvalidHeader,
    #[error("invalid session header (text behind it)")]
    BehindHeader,
    #[error("unable to base64url decode session header ({0})")]
    HeaderEncoding(DecodeSliceError),
    #[error("invalid session cookie type")]
    InvalidType,
    #[error("invalid session message authentication code")]
    InvalidMac,
    #[error("invalid session payload")]
    InvalidPayload,
    #[error("unable to base64url decode session data ({0})")]
    PayloadEncoding(DecodeError),
    #[error("unable to decrypt session data ({0})")]
    Decrypt(CipherError),
    #[error("unable to encrypt session data ({0})")]
    Encrypt(CipherError),
    #[error("unable to inflate session data ({0})")]
    Inflate(InflateError),
    #[error("cookie size limit exceeded")]
    SizeExceeded,
    #[error("session maximum data size exceeded")]
    DataSizeExceeded,
    #[error("session maximum data size exceeded (max_data_size is {0} bytes)")]
    DataTooLarge(usize),
    #[error("session maximum rolling offset exceeded")]
    RollingOffsetExceeded,
    #[error("session maximum creation time exceeded")]
    CreationTimeExceeded,
}
