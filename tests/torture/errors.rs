//! What the texts of errors mean.

/// What an error says of a session.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Class {
    /// There is no such session, or none any more.
    Gone,
    /// The storage failed, and another try may succeed.
    Fault,
    /// Something that no fault of a storage explains.
    Wrong,
}

/// Texts of which an error that says that a session is gone is one, or ends so.
const GONE: [&str; 6] = [
    "unable to load session",
    "session revoked",
    "timeout exceeded",
    "the session was destroyed meanwhile)",
    "there is no such session any more)",
    "missing session cookie",
];

/// Texts that are in errors that no fault explains.
const WRONG: [&str; 13] = [
    "raised:",
    "decrypt",
    "authentication code",
    "json decode",
    "base64url decode",
    "inflate",
    "invalid session",
    "invalid argument",
    "does not match the request",
    "the driver failed",
    "missing session audience",
    "nonexistent",
    "is not enabled",
];

pub fn classify(error: Option<&str>) -> Class {
    let Some(error) = error else { return Class::Wrong };
    if GONE.iter().any(|text| error.ends_with(text)) || error.contains("it was destroyed meanwhile") {
        Class::Gone
    } else if error.contains("the server is unavailable: ") {
        // Whatever follows is why it was found so.
        Class::Fault
    } else if WRONG.iter().any(|text| error.contains(text)) {
        Class::Wrong
    } else {
        Class::Fault
    }
}

/// Whether a turn found that its session has ended. What it opens may be another save of the same
/// sign-in, of which this browser was not told, and which was ended since.
pub fn ended_before_turn(error: &str) -> bool {
    let quoted = error.strip_prefix("unable to synchronize session (").and_then(|rest| rest.strip_suffix(')'));
    quoted.is_some_and(|quoted| classify(Some(quoted)) == Class::Gone)
}
