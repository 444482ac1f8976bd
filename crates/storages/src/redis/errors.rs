//! The driver's errors: their texts, and what they mean for an operation and its connection.

use redis::{ErrorKind, RedisError};

use crate::{Cause, Error};

/// The error of an operation that leaves its connection as good as it was.
pub fn failed(error: RedisError) -> Error {
    if error.is_timeout() { Error::Timeout } else { Error::Driver(cause(error)) }
}

fn cause(error: RedisError) -> Cause {
    Cause::new(describe(&error), error)
}

/// Describes an error, in the server's words if it sent any.
fn describe(error: &RedisError) -> String {
    if error.kind() == ErrorKind::AuthenticationFailed {
        return "the server refuses the username or the password".to_owned();
    }
    match (error.code(), error.detail()) {
        (Some(code), Some(detail)) if detail.starts_with(code) => detail.to_owned(),
        (Some(code), Some(detail)) => format!("{code} {detail}"),
        (Some(code), None) => code.to_owned(),
        (None, _) => error.to_string(),
    }
}

/// The error of an operation after which its connection is given up.
pub fn lost(error: RedisError) -> Error {
    if error.is_timeout() { Error::Timeout } else { Error::Lost(cause(error)) }
}

/// Whether the error means that the connection itself is broken.
pub fn is_broken(error: &RedisError) -> bool {
    error.is_timeout() || error.is_connection_dropped() || error.is_unrecoverable_error()
}

/// Why a connection could not be made.
pub fn connect_error(error: RedisError) -> Error {
    if error.is_timeout() { Error::ConnectTimeout } else { Error::Connect(cause(error)) }
}

/// Whether the connection must be replaced: it is broken, or its server refuses commands or writes.
pub fn is_lost(error: &RedisError) -> bool {
    is_broken(error)
        || error.detail().is_some_and(|detail| detail.contains("READONLY"))
        || matches!(error.code(), Some("READONLY" | "MASTERDOWN" | "LOADING" | "NOAUTH" | "NOREPLICAS"))
}
