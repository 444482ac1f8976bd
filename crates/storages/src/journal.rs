//! What operators are told: a line for each change of a server's state, never one a request.

/// How urgent a line is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Level {
    /// Something ended well, such as a server that is available again.
    Notice,
    /// Something fails that may mend itself, such as a server that is unavailable.
    Warning,
    /// Something fails until somebody mends it.
    Error,
}

/// Where the lines go. A line never holds a secret.
pub trait Journal: Send + Sync {
    /// Takes a line. Texts of servers may be part of it, with line breaks and of any length:
    /// whoever writes it into a log makes sure that it stays one line. It must not block.
    fn note(&self, level: Level, line: String);
}

/// A journal that drops every line.
pub struct Silent;

impl Journal for Silent {
    fn note(&self, _: Level, _: String) {}
}
