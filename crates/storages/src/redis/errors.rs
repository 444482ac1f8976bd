//! The driver's errors: their texts, and what they mean for an operation and its connection.

use redis::{RedisError, ServerError, Value};

use crate::connections::Failure;
use crate::{Cause, Error};

/// The error of an operation that leaves its connection as good as it was.
pub(super) fn failed(error: impl Into<RedisError>) -> Error {
    let error = error.into();
    if error.is_timeout() { Error::Timeout } else { Error::Driver(cause(error)) }
}

fn cause(error: RedisError) -> Cause {
    Cause::new(describe(&error), error)
}

/// Describes an error, in the server's words if it sent any, but without a command's arguments:
/// they may be a password or a session.
fn describe(error: &RedisError) -> String {
    if refuses_password(error) {
        return "the server refuses the username or the password".to_owned();
    }
    let detail = error.detail().map(|detail| detail.split(", with args beginning with").next().unwrap_or_default());
    match (error.code(), detail) {
        (Some(code), Some(detail)) if detail.starts_with(code) => detail.to_owned(),
        (Some(code), Some(detail)) => format!("{code} {detail}"),
        (Some(code), None) => code.to_owned(),
        (None, _) => error.to_string(),
    }
}

/// Redis 5 has no code for it.
fn refuses_password(error: &RedisError) -> bool {
    error.code() == Some("WRONGPASS") || error.detail().is_some_and(|detail| detail.contains("invalid password"))
}

/// What the error of an operation means for its connection.
pub(super) fn failure(error: RedisError) -> Failure {
    match error.is_connection_dropped() || error.is_unrecoverable_error() {
        true => Failure::Lost(lost(error)),
        false => Failure::Failed(failed(error)),
    }
}

/// The error of an operation that may be repeated on another connection.
pub(super) fn lost(error: impl Into<RedisError>) -> Error {
    Error::Lost(cause(error.into()))
}

/// Why a connection could not be made.
pub(super) fn connect_error(error: RedisError) -> Error {
    let refuses_login = refuses_password(&error) || error.code() == Some("NOAUTH");
    match (error.is_timeout(), refuses_login) {
        (true, _) => Error::ConnectTimeout,
        (false, true) => Error::SignIn(cause(error)),
        (false, false) => Error::Connect(cause(error)),
    }
}

/// Returns the error of a server that is in a state in which it refuses commands or writes. Another
/// connection may lead to a better one.
pub(super) fn refusal(value: &Value) -> Option<&ServerError> {
    let Value::ServerError(error) = value else { return None };
    // A script's error has the code of its own, and that of the command in its text.
    let is_refusal = matches!(error.code(), "READONLY" | "MASTERDOWN" | "LOADING" | "NOAUTH" | "NOREPLICAS")
        || error.details().is_some_and(|details| details.contains("READONLY"));
    is_refusal.then_some(error)
}

/// Converts a reply.
///
/// # Errors
///
/// No server should have sent it.
pub(super) fn converted<T: redis::FromRedisValue>(value: Value) -> Result<T, Error> {
    redis::from_redis_value(value).map_err(|error| Error::Driver(Cause::new(error.to_string(), error)))
}
