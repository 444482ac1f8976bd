//! What the storages in SQL databases share: the names of their tables, and what to do where these are missing.

use std::future::Future;
use std::time::Duration;

use tokio::time::timeout;

use super::{Error, Record};

pub(crate) mod options;

/// A server ends a statement that takes too long by itself, and says so; it has this much more time for that.
pub const GRACE: Duration = Duration::from_millis(50);

/// The names of a storage's tables, as they stand in statements.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Tables {
    pub sessions: String,
    pub metadata: String,
}

/// A database's way with names.
#[derive(Clone, Copy)]
pub struct Dialect {
    /// What stands around a name that is not plain.
    pub quote: char,
    /// The longest name, in characters.
    pub longest: usize,
    /// The statements that make the tables `sessions` and `sessions_meta`.
    pub schema: &'static str,
}

impl Dialect {
    /// Whether a text is a table's name, `table` or `schema.table`, each part plain (letters, digits, `_` and `$`) or
    /// quoted. A name cannot be bound to a statement: nothing else may get into one.
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

    /// A table's name with something after it, such as `_meta`.
    pub fn extended(&self, table: &str, suffix: &str) -> String {
        match table.strip_suffix(self.quote) {
            Some(name) => format!("{name}{suffix}{}", self.quote),
            None => format!("{table}{suffix}"),
        }
    }

    /// What is wrong when a table is missing, and what to do about it.
    pub fn missing(&self, tables: &Tables, message: &str) -> Error {
        Error::Server(format!("{message}; create the tables with: {}", self.statements(tables)))
    }

    /// The statements that make the tables, in one line.
    fn statements(&self, tables: &Tables) -> String {
        let lines = self.schema.lines().map(str::trim).filter(|line| !line.starts_with("--"));
        let words = lines.flat_map(str::split_whitespace).map(|word| {
            let name = word.trim_end_matches(';');
            match name {
                "sessions" => word.replacen(name, &tables.sessions, 1),
                "sessions_meta" => word.replacen(name, &tables.metadata, 1),
                // An index is where its table is.
                "sessions_exp" => self.extended(last_part(&tables.sessions), "_exp"),
                "sessions_meta_sid" => self.extended(last_part(&tables.metadata), "_sid"),
                _ => word.to_owned(),
            }
        });
        words.collect::<Vec<_>>().join(" ").replace("( ", "(").replace(" )", ")")
    }
}

/// A table's name without its schema's.
fn last_part(table: &str) -> &str {
    table.rsplit_once('.').map_or(table, |(_, table)| table)
}

/// When the record that is replaced expires at the latest, in seconds since the epoch.
pub fn stale_expiry(record: &Record) -> u64 {
    record.current_time.saturating_add(record.stale_ttl)
}

/// An error, and whether it is a deadlock's, for which the server has undone the whole transaction.
pub struct Failure {
    pub error: Error,
    pub deadlock: bool,
}

impl From<Error> for Failure {
    fn from(error: Error) -> Self {
        Self { error, deadlock: false }
    }
}

impl From<Failure> for Error {
    fn from(failure: Failure) -> Self {
        failure.error
    }
}

/// Does something again when it ended in a deadlock, a few times.
pub async fn outlast_deadlocks<T, F>(attempt: impl Fn() -> F) -> Result<T, Error>
where
    F: Future<Output = Result<T, Failure>>,
{
    const ATTEMPTS: usize = 8;
    for _ in 1..ATTEMPTS {
        match attempt().await {
            Err(failure) if failure.deadlock => {}
            result => return Ok(result?),
        }
    }
    Ok(attempt().await?)
}

/// What takes longer than `limit`, and what the server may need to end it by itself, is a timeout.
pub async fn within<T>(limit: Duration, running: impl Future<Output = Result<T, Error>>) -> Result<T, Error> {
    timeout(limit + GRACE, running).await.unwrap_or(Err(Error::Timeout))
}

/// The value as the text that it is kept as.
///
/// # Errors
///
/// It is no UTF-8: a text column cannot hold it.
pub fn text(value: Vec<u8>) -> Result<String, Error> {
    String::from_utf8(value).map_err(|_| Error::Server("the record is no UTF-8".to_owned()))
}

#[cfg(test)]
mod tests {
    use super::*;

    const DIALECT: Dialect = Dialect { quote: '"', longest: 63, schema: include_str!("../../../../sql/postgres.sql") };

    #[test]
    fn only_names_are_names() {
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
    fn metadata_is_beside_the_sessions() {
        assert_eq!(DIALECT.extended("app.sessions", "_meta"), "app.sessions_meta");
        assert_eq!(DIALECT.extended("\"My\"", "_meta"), "\"My_meta\"");
    }

    #[test]
    fn what_is_missing_can_be_made_with_what_is_said() {
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
