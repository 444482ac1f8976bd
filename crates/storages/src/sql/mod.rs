//! What the storages in SQL databases share: the names of tables, the error for missing tables,
//! deadlocks and time limits.

use std::future::Future;
use std::time::Duration;

use tokio::time::timeout;

use super::Error;
use super::connections::Failure;

mod hosts;
pub(crate) mod options;
mod settings;

pub use hosts::{Hosts, read_only};
pub use settings::{Refusal, Refusals};

/// How much longer the driver waits for a statement than the server, which ends a slow one by
/// itself with a better error.
pub const TIMEOUT_MARGIN: Duration = Duration::from_millis(50);

/// The names of a storage's tables, quoted as they are written in statements.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Tables {
    /// That of the records.
    pub sessions: String,
    /// That of which sessions a subject has.
    pub metadata: String,
}

impl Tables {
    /// What the journal calls the sessions' rows.
    pub(crate) fn rows(&self) -> String {
        format!("rows of the table {}", self.sessions)
    }
}

/// A database's rules for names.
#[derive(Clone, Copy)]
pub struct Dialect {
    /// The character that quotes a name.
    pub quote: char,
    /// The longest name, in characters.
    pub longest: usize,
    /// The statements that create the tables `sessions` and `sessions_meta`.
    pub schema: &'static str,
}

impl Dialect {
    /// Whether a text is the name of a table, `table` or `schema.table`, each part plain (letters,
    /// digits, `_` and `$`) or quoted. Names are checked because they are written into statements:
    /// they cannot be bound as parameters.
    pub fn is_table(&self, text: &str) -> bool {
        match text.split_once('.') {
            Some((schema, table)) if self.is_part(schema) => self.is_part(table),
            _ => self.is_part(text),
        }
    }

    fn is_part(&self, text: &str) -> bool {
        let quoted = text.strip_prefix(self.quote).and_then(|text| text.strip_suffix(self.quote));
        let name = quoted.unwrap_or(text);
        let plain = |c: char| c.is_ascii_alphanumeric() || c == '_' || c == '$';
        let allowed = |c: char| if quoted.is_some() { c != self.quote && !c.is_control() } else { plain(c) };
        let starts_well = quoted.is_some() || !name.starts_with(|c: char| c.is_ascii_digit() || c == '$');
        !name.is_empty() && name.chars().count() <= self.longest && starts_well && name.chars().all(allowed)
    }

    /// Returns the name of a table with a suffix such as `_meta`, inside the quotes if there are
    /// any.
    pub fn extended(&self, table: &str, suffix: &str) -> String {
        match table.strip_suffix(self.quote) {
            Some(name) => format!("{name}{suffix}{}", self.quote),
            None => format!("{table}{suffix}"),
        }
    }

    /// The error for a missing table: the server's message, and the statements that create the
    /// tables.
    pub fn missing(&self, tables: &Tables, message: &str) -> Error {
        Error::Server(format!("{message}; create the tables with: {}", self.statements(tables)))
    }

    /// Returns the statements that create these tables, on one line.
    fn statements(&self, tables: &Tables) -> String {
        let lines = self.schema.lines().map(str::trim).filter(|line| !line.starts_with("--"));
        let words = lines.flat_map(str::split_whitespace).map(|word| {
            let name = word.trim_end_matches(';');
            match name {
                "sessions" => word.replacen(name, &tables.sessions, 1),
                "sessions_meta" => word.replacen(name, &tables.metadata, 1),
                // An index is created in its table's schema, so its name has no schema.
                "sessions_exp" => self.extended(last_part(&tables.sessions), "_exp"),
                "sessions_meta_sid" => self.extended(last_part(&tables.metadata), "_sid"),
                _ => word.to_owned(),
            }
        });
        words.collect::<Vec<_>>().join(" ").replace("( ", "(").replace(" )", ")")
    }
}

/// Returns the name of a table without its schema.
fn last_part(table: &str) -> &str {
    table.rsplit_once('.').map_or(table, |(_, table)| table)
}

/// What an error means for the connection and for the operation.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fault {
    /// The connection cannot be used any more. Whether the operation was carried out is not known.
    Lost,
    /// The server is in a state in which it refuses: another one, or the same one later, may not.
    Refused,
    /// The server has undone the transaction in favour of another. It may be tried again.
    Deadlock,
    /// Only this operation failed.
    Failed,
}

/// How an attempt at a transaction ended that did not fail.
pub enum Outcome<T> {
    /// It is done, with this result.
    Done(T),
    /// The server has undone it in favour of another.
    Deadlock(Error),
}

/// What the result of an attempt at a transaction means: `fault` says so of an error, and
/// `to_error` makes the program's of it.
///
/// # Errors
///
/// The transaction failed, and not in favour of another.
pub fn conclude<T, E>(
    result: Result<T, E>,
    fault: impl FnOnce(&E) -> Fault,
    to_error: impl FnOnce(E) -> Error,
) -> Result<Outcome<T>, Failure> {
    let error = match result {
        Ok(done) => return Ok(Outcome::Done(done)),
        Err(error) => error,
    };
    match fault(&error) {
        Fault::Lost => Err(Failure::Lost(to_error(error))),
        Fault::Refused => Err(Failure::Refused(to_error(error))),
        Fault::Deadlock => Ok(Outcome::Deadlock(to_error(error))),
        Fault::Failed => Err(Failure::Failed(to_error(error))),
    }
}

/// Repeats a transaction that ended in a deadlock, up to seven times.
///
/// # Errors
///
/// The error of the last attempt.
pub async fn outlast_deadlocks<T, F>(attempt: impl Fn() -> F) -> Result<T, Error>
where
    F: Future<Output = Result<Outcome<T>, Error>>,
{
    const ATTEMPTS: usize = 8;
    for _ in 1..ATTEMPTS {
        if let Outcome::Done(done) = attempt().await? {
            return Ok(done);
        }
    }
    match attempt().await? {
        Outcome::Done(done) => Ok(done),
        Outcome::Deadlock(error) => Err(error),
    }
}

/// Waits for an operation until `limit` and [`TIMEOUT_MARGIN`] are over.
///
/// # Errors
///
/// [`Error::Timeout`] if it takes longer; otherwise its own error.
pub async fn within<T>(limit: Duration, running: impl Future<Output = Result<T, Error>>) -> Result<T, Error> {
    timeout(limit + TIMEOUT_MARGIN, running).await.unwrap_or(Err(Error::Timeout))
}

/// Returns a record's value as text, as it is stored.
///
/// # Errors
///
/// The value is not valid UTF-8, which a text column cannot hold.
pub fn text(value: Vec<u8>) -> Result<String, Error> {
    String::from_utf8(value).map_err(|_| Error::Server("the record is not valid UTF-8".to_owned()))
}

#[cfg(test)]
mod tests {
    use super::*;

    const DIALECT: Dialect = Dialect { quote: '"', longest: 63, schema: include_str!("../../../../sql/postgres.sql") };

    #[test]
    fn table_names_are_plain_or_quoted() {
        for name in ["sessions", "app.sessions", "_s$1", "\"My Sessions\"", "app.\"a;b\"", "\"a b\".\"c\""] {
            assert!(DIALECT.is_table(name), "{name}");
        }
        for name in
            ["", ".", "a.", ".a", "a.b.c", "1a", "a b", "a;--", "a'", "\"", "\"\"", "\"a\"b\"", "a\0", "\"a\n\"", "ä"]
        {
            assert!(!DIALECT.is_table(name), "{name}");
        }
        assert!(!DIALECT.is_table(&"a".repeat(64)));
    }

    #[test]
    fn a_suffix_is_inside_the_quotes() {
        assert_eq!(DIALECT.extended("app.sessions", "_meta"), "app.sessions_meta");
        assert_eq!(DIALECT.extended("\"My\"", "_meta"), "\"My_meta\"");
    }

    #[test]
    fn the_error_for_missing_tables_has_the_statements_that_create_them() {
        let tables = Tables { sessions: "app.s".into(), metadata: "app.s_meta".into() };
        let said = DIALECT.missing(&tables, "no table").to_string();
        assert!(
            said.starts_with("no table; create the tables with: CREATE TABLE IF NOT EXISTS app.s (sid TEXT"),
            "{said}"
        );
        assert!(
            said.contains("CREATE TABLE IF NOT EXISTS app.s_meta (aud TEXT, sub TEXT, sid TEXT REFERENCES app.s (sid)")
        );
        assert!(said.contains("CREATE INDEX IF NOT EXISTS s_meta_sid ON app.s_meta (sid);"), "{said}");
    }
}
