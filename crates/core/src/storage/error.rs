//! Errors of storages, and their causes.

use std::fmt;
use std::sync::Arc;

/// Why a storage did not do what it was asked. Programs see the text, and some match it.
#[derive(Clone, Debug)]
pub enum Error {
    /// The reply did not come within the time limit. Whether the operation was carried out is not
    /// known.
    Timeout,
    /// The connection could not be made within the time limit.
    ConnectTimeout,
    /// The connection could not be made: it was refused, or the host, the certificate or the
    /// password is wrong.
    Connect(Cause),
    /// The server refused the user or the password.
    SignIn(Cause),
    /// The program's function did not return the credentials to sign in with. The text says why.
    Credentials(String),
    /// The server has just failed, and is tried in the background. The operation was not sent.
    Unavailable(Cause),
    /// No connection became free within the time limit.
    Busy,
    /// Too many operations wait for the server's replies.
    Overloaded,
    /// The connection failed, or became useless, before the reply. Whether the operation was
    /// carried out is not known.
    Lost(Cause),
    /// The record that a [`Set`](super::Set) replaces is gone, though it had to exist.
    Gone,
    /// The server refused the operation, its reply makes no sense, or it cannot hold what it was
    /// given.
    Server(String),
    /// A library that a driver is built on, or the operating system, reported a failure.
    Driver(Cause),
    /// The driver panicked, or its runtime has ended.
    Broken,
    /// The calling thread cannot wait for the storage, or its wait failed. The text says why.
    Wait(String),
    /// The message of a storage that a program wrote in Lua.
    Program(String),
    /// The reply is of a kind that the request cannot have.
    Mismatch,
}

impl fmt::Display for Error {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Timeout => formatter.write_str("timeout"),
            Self::ConnectTimeout => formatter.write_str("connect timeout"),
            Self::Connect(cause) | Self::SignIn(cause) => write!(formatter, "unable to connect: {cause}"),
            Self::Credentials(text) => write!(formatter, "unable to get the credentials: {text}"),
            Self::Unavailable(cause) => write!(formatter, "the server is unavailable: {cause}"),
            Self::Overloaded => formatter.write_str("too many operations are waiting for the server"),
            Self::Busy => formatter.write_str("all connections are busy"),
            Self::Lost(cause) | Self::Driver(cause) => cause.fmt(formatter),
            Self::Gone => formatter.write_str("the session was destroyed meanwhile"),
            Self::Server(text) | Self::Wait(text) | Self::Program(text) => formatter.write_str(text),
            Self::Broken => formatter.write_str("the driver failed"),
            Self::Mismatch => formatter.write_str("the reply does not match the request"),
        }
    }
}

impl std::error::Error for Error {
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        match self {
            Self::Connect(cause)
            | Self::SignIn(cause)
            | Self::Unavailable(cause)
            | Self::Lost(cause)
            | Self::Driver(cause) => cause.source.as_deref().map(upcast),
            _ => None,
        }
    }
}

/// Two errors are equal if they are of one kind and have the same text.
impl PartialEq for Error {
    fn eq(&self, other: &Self) -> bool {
        std::mem::discriminant(self) == std::mem::discriminant(other) && self.to_string() == other.to_string()
    }
}

type Source = dyn std::error::Error + Send + Sync;

fn upcast(source: &Source) -> &(dyn std::error::Error + 'static) {
    source
}

/// What happened, in words for the program, and the error of a library or the system that says so.
#[derive(Clone)]
pub struct Cause {
    text: Box<str>,
    source: Option<Arc<Source>>,
}

impl Cause {
    /// A cause in other words than those of its source, or in a part of them.
    pub fn new(text: impl Into<Box<str>>, source: impl std::error::Error + Send + Sync + 'static) -> Self {
        Self { text: text.into(), source: Some(Arc::new(source)) }
    }
}

/// A cause without a source.
impl From<String> for Cause {
    fn from(text: String) -> Self {
        Self { text: text.into(), source: None }
    }
}

/// A cause without a source.
impl From<&str> for Cause {
    fn from(text: &str) -> Self {
        Self { text: text.into(), source: None }
    }
}

impl fmt::Display for Cause {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str(&self.text)
    }
}

/// Shows the text alone: the details of a library's error may hold values, and so a session's key.
impl fmt::Debug for Cause {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(formatter, "{:?}", self.text)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_error_keeps_its_source_and_its_debugging_output_does_not_show_it() {
        let source = std::io::Error::other("vertraulich");
        let error = Error::Lost(Cause::new("the connection is lost", source));
        assert_eq!(error.to_string(), "the connection is lost");
        let source = std::error::Error::source(&error).unwrap();
        assert_eq!(source.to_string(), "vertraulich");
        assert_eq!(format!("{error:?}"), "Lost(\"the connection is lost\")");
        assert!(std::error::Error::source(&Error::Connect("refused".into())).is_none());
    }
}
