//! The statements, for MySQL and MariaDB alike.
//!
//! Times are seconds since the epoch. In the table, a time is a DATETIME that many seconds after
//! 1970-01-01 00:00:00. It has no time zone, and none is needed to compute it.

use crate::sql::Tables;

const EPOCH: &str = "TIMESTAMP'1970-01-01 00:00:00'";

pub(super) struct Statements {
    /// Key, time.
    pub get: String,
    /// Key, name, value, expiry.
    pub save: String,
    /// The latest expiry, key, the latest expiry again.
    pub shorten: String,
    /// Key, time.
    pub exists: String,
    /// Value, the latest expiry, key, time.
    pub update: String,
    /// Key.
    pub forget: String,
    /// Key.
    pub delete: String,
    /// Audience, subject, name, time.
    pub sessions: String,
    /// Key, name, holder, expiry, and thrice time and holder.
    pub lock: String,
    /// Key, holder, time.
    pub is_holder: String,
    /// Key, holder.
    pub unlock: String,
    /// Time, number of rows.
    pub clean: String,
    metadata: String,
}

impl Statements {
    pub(super) fn new(tables: &Tables) -> Self {
        let Tables { sessions, metadata } = tables;
        let is_free = format!("exp <= {EPOCH} + INTERVAL ? SECOND OR CAST(data AS BINARY) = CAST(? AS BINARY)");
        Self {
            get: format!("SELECT data FROM {sessions} WHERE sid = ? AND exp > {EPOCH} + INTERVAL ? SECOND"),
            save: format!(
                "INSERT INTO {sessions} (sid, name, data, exp) VALUES (?, ?, ?, {EPOCH} + INTERVAL ? SECOND) \
                 ON DUPLICATE KEY UPDATE name = VALUES(name), data = VALUES(data), exp = VALUES(exp)"
            ),
            shorten: format!(
                "UPDATE {sessions} SET exp = {EPOCH} + INTERVAL ? SECOND \
                 WHERE sid = ? AND exp > {EPOCH} + INTERVAL ? SECOND"
            ),
            exists: format!("SELECT 1 FROM {sessions} WHERE sid = ? AND exp > {EPOCH} + INTERVAL ? SECOND FOR UPDATE"),
            update: format!(
                "UPDATE {sessions} SET data = ?, exp = LEAST(exp, {EPOCH} + INTERVAL ? SECOND) \
                 WHERE sid = ? AND exp > {EPOCH} + INTERVAL ? SECOND"
            ),
            forget: format!("DELETE FROM {metadata} WHERE sid = ?"),
            delete: format!("DELETE FROM {sessions} WHERE sid = ?"),
            sessions: format!(
                "SELECT owner.aud, owner.sub, session.sid, TIMESTAMPDIFF(SECOND, {EPOCH}, session.exp) \
                 FROM {metadata} AS owner JOIN {sessions} AS session ON session.sid = owner.sid \
                 WHERE owner.aud = ? AND owner.sub = ? AND session.name = ? \
                 AND session.exp > {EPOCH} + INTERVAL ? SECOND"
            ),
            // A lock is a row whose data is its holder. Assignments are made from left to right,
            // and see those before them. So each condition is the same whether `data` is the former
            // holder or the new one. The holder is bound in each, because MariaDB finds
            // VALUES(data) equal to any `data` once that has been assigned.
            lock: format!(
                "INSERT INTO {sessions} (sid, name, data, exp) VALUES (?, ?, ?, {EPOCH} + INTERVAL ? SECOND) \
                 ON DUPLICATE KEY UPDATE name = IF({is_free}, VALUES(name), name), \
                 data = IF({is_free}, VALUES(data), data), exp = IF({is_free}, VALUES(exp), exp)"
            ),
            is_holder: format!(
                "SELECT 1 FROM {sessions} WHERE sid = ? AND CAST(data AS BINARY) = CAST(? AS BINARY) \
                 AND exp > {EPOCH} + INTERVAL ? SECOND"
            ),
            unlock: format!("DELETE FROM {sessions} WHERE sid = ? AND CAST(data AS BINARY) = CAST(? AS BINARY)"),
            clean: format!("DELETE FROM {sessions} WHERE exp <= {EPOCH} + INTERVAL ? SECOND ORDER BY exp LIMIT ?"),
            metadata: metadata.clone(),
        }
    }

    /// Lists a session among the sessions of this many owners. The values are audience, subject and
    /// key for each owner.
    pub(super) fn note(&self, owners: usize) -> String {
        let rows = vec!["(?, ?, ?)"; owners].join(", ");
        format!("INSERT INTO {} (aud, sub, sid) VALUES {rows} ON DUPLICATE KEY UPDATE sid = VALUES(sid)", self.metadata)
    }
}
