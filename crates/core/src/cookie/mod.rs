//! The cookie: its header, keys, sealing, chunks, and the text of Set-Cookie and Cookie headers.
//!
//! This module does not know about sessions, storages or Lua: bytes go in, bytes come out. The
//! caller gives it randomness and time.

pub mod attributes;
pub mod base64url;
pub mod chunks;
pub mod cipher;
pub mod compression;
mod error;
pub mod header;
pub mod info;
pub mod keys;
pub mod request;
pub mod seal;
pub mod set_cookie;

pub use error::Error;
pub use header::{Flags, Header, Sid};
pub use keys::{Key, RememberSafety};
pub use seal::Binding;
