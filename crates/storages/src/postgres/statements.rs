//! The statements, each of which does the whole of an operation.

use crate::sql::Tables;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    Get,
    Save,
    Replace,
    ReplaceWithMetadata,
    ReplaceExisting,
    ReplaceExistingWithMetadata,
    Update,
    Delete,
    Sessions,
    Lock,
    Unlock,
}

pub(super) const KINDS: usize = 11;

impl Kind {
    /// Whether it changes rows.
    pub fn is_write(self) -> bool {
        !matches!(self, Self::Get | Self::Sessions)
    }
}

/// The row to save, which exists only if a record was replaced.
const SELECT_REPLACED: &str = "SELECT $1::text, $2::text, $3::text, to_timestamp($4) FROM replaced";

/// The statements' texts, by kind. Times are seconds since the epoch, so time zones do not matter.
#[derive(PartialEq)]
pub struct Statements([String; KINDS]);

impl Statements {
    pub fn text(&self, kind: Kind) -> &str {
        &self.0[kind as usize]
    }

    pub fn new(tables: &Tables) -> Self {
        let Tables { sessions, metadata } = tables;
        let get = format!("SELECT data FROM {sessions} WHERE sid = $1 AND {}", expires_after("exp", "$2"));
        let save = format!(
            "INSERT INTO {sessions} (sid, name, data, exp) VALUES ($1, $2, $3, to_timestamp($4)) \
             ON CONFLICT (sid) DO UPDATE SET name = EXCLUDED.name, data = EXCLUDED.data, exp = EXCLUDED.exp"
        );
        let lives = expires_after("exp", "$6");
        let shorten = format!("UPDATE {sessions} SET exp = to_timestamp($6) WHERE sid = $5 AND {lives}");
        let replace = format!("WITH replaced AS ({shorten}) {save}");
        // Foreign keys are checked when the statement is done, with the new session there. What was
        // noted of the replaced session is found by its owners, because not every site's table has
        // an index on `sid`.
        let replace_with_metadata = format!(
            "WITH replaced AS ({shorten}), saved AS ({save}), \
             forgotten AS (DELETE FROM {metadata} AS noted USING unnest($7::text[], $8::text[]) AS owner (aud, sub) \
             WHERE noted.aud = owner.aud AND noted.sub = owner.sub AND noted.sid = $5) \
             INSERT INTO {metadata} (aud, sub, sid) \
             SELECT DISTINCT owner.aud, owner.sub, $1 FROM unnest($7::text[], $8::text[]) AS owner (aud, sub) \
             ON CONFLICT DO NOTHING"
        );
        let [replace_existing, replace_existing_with_metadata] = replacing_existing(tables, &save);
        let update = format!(
            "UPDATE {sessions} SET data = $2, exp = least(exp, to_timestamp($3)) \
             WHERE sid = $1 AND {} RETURNING sid",
            expires_after("exp", "$4")
        );
        let delete = format!("DELETE FROM {sessions} WHERE sid = $1");
        let of_owner = sessions_of_an_owner(tables);
        let [lock, unlock] = locking(sessions);
        Self([
            get,
            save,
            replace,
            replace_with_metadata,
            replace_existing,
            replace_existing_with_metadata,
            update,
            delete,
            of_owner,
            lock,
            unlock,
        ])
    }
}

fn sessions_of_an_owner(Tables { sessions, metadata }: &Tables) -> String {
    format!(
        "SELECT session.sid, extract(epoch FROM session.exp)::bigint FROM {metadata} AS owner \
         JOIN {sessions} AS session ON session.sid = owner.sid \
         WHERE owner.aud = $1 AND owner.sub = $2 AND session.name = $3 AND {}",
        expires_after("session.exp", "$4")
    )
}

/// Taking a lock and freeing it. A lock is a row whose data is its holder. A row that another has
/// just taken is waited for, and then compared as it is.
fn locking(sessions: &str) -> [String; 2] {
    let lock = format!(
        "INSERT INTO {sessions} AS held (sid, name, data, exp) VALUES ($1, $2, $3, to_timestamp($4)) \
         ON CONFLICT (sid) DO UPDATE SET name = EXCLUDED.name, data = EXCLUDED.data, exp = EXCLUDED.exp \
         WHERE held.exp <= to_timestamp($5) OR held.data = EXCLUDED.data RETURNING sid"
    );
    [lock, format!("DELETE FROM {sessions} WHERE sid = $1 AND data = $2")]
}

/// A condition that a column's time is after a parameter's. Its form keeps Postgres from using the
/// index on that column: while the table's statistics are old, few rows seem to be alive, and then
/// Postgres would read all of those to find one key among them.
fn expires_after(column: &str, parameter: &str) -> String {
    format!("({column} > to_timestamp({parameter})) IS TRUE")
}

/// The statements that save a session only if the one that it replaces is there: without metadata,
/// and with. `save` is the statement that saves it in any case.
fn replacing_existing(Tables { sessions, metadata }: &Tables, save: &str) -> [String; 2] {
    // This waits for a sign-out that is about to delete the row, and then finds no row.
    let existing = format!(
        "UPDATE {sessions} SET exp = least(exp, to_timestamp($6)) \
         WHERE sid = $5 AND {} RETURNING sid",
        expires_after("exp", "$7")
    );
    let save = save.replace("VALUES ($1, $2, $3, to_timestamp($4))", SELECT_REPLACED);
    let replace = format!("WITH replaced AS ({existing}) {save} RETURNING sid");
    let replace_with_metadata = format!(
        "WITH replaced AS ({existing}), saved AS ({save} RETURNING sid), \
         forgotten AS (DELETE FROM {metadata} AS noted \
         USING replaced, unnest($8::text[], $9::text[]) AS owner (aud, sub) \
         WHERE noted.aud = owner.aud AND noted.sub = owner.sub AND noted.sid = replaced.sid), \
         noted AS (INSERT INTO {metadata} (aud, sub, sid) SELECT DISTINCT owner.aud, owner.sub, saved.sid \
         FROM saved, unnest($8::text[], $9::text[]) AS owner (aud, sub) ON CONFLICT DO NOTHING) \
         SELECT sid FROM saved"
    );
    [replace, replace_with_metadata]
}
