//! A connection, and the statements that are prepared on it.

use std::collections::VecDeque;
use std::sync::{Arc, Mutex, PoisonError};

use tokio::sync::OnceCell;
use tokio::task::AbortHandle;
use tokio_postgres::{Client, Statement};

use super::connector::Access;
use super::statements::{KINDS, Kind, Statements};
use crate::connections::Handle;

/// For how many storages, each with tables of its own, a connection keeps statements.
const MOST_TABLES: usize = 64;

pub struct Connection {
    pub client: Client,
    /// The server's position among those of the options.
    pub host: usize,
    pub access: Arc<Access>,
    /// Whether it is to the server that takes writes, or to another one.
    pub is_primary: bool,
    /// What was prepared for each storage, the one that was used last first.
    pub prepared: Mutex<VecDeque<Prepared>>,
    pub driver: Driver,
}

impl Handle for Arc<Connection> {
    /// One to a server that has lost or got its role is closed, too.
    fn is_closed(&self) -> bool {
        self.client.is_closed() || self.access.hosts.is_current(self.host) != self.is_primary
    }

    fn close(&self) {
        self.driver.0.abort();
    }
}

/// The task that drives a connection. It ends with the connection. By itself it would wait for all
/// replies that the server still owes.
pub struct Driver(pub AbortHandle);

impl Drop for Driver {
    fn drop(&mut self) {
        self.0.abort();
    }
}

/// A storage's statements, as they are prepared on a connection.
pub struct Prepared {
    texts: Arc<Statements>,
    statements: Arc<[OnceCell<Statement>; KINDS]>,
}

impl Connection {
    /// Returns a statement. It is prepared when it is first needed, because the metadata's table
    /// may not exist if metadata is not stored.
    pub async fn statement(&self, kind: Kind, texts: &Arc<Statements>) -> Result<Statement, tokio_postgres::Error> {
        let statements = self.statements(texts);
        let cell = &statements[kind as usize];
        cell.get_or_try_init(|| self.client.prepare(texts.text(kind))).await.cloned()
    }

    /// Forgets a storage's statements, so that they are prepared anew.
    pub fn forget(&self, texts: &Arc<Statements>) {
        let mut prepared = self.prepared.lock().unwrap_or_else(PoisonError::into_inner);
        prepared.retain(|one| *one.texts != **texts);
    }

    fn statements(&self, texts: &Arc<Statements>) -> Arc<[OnceCell<Statement>; KINDS]> {
        let mut prepared = self.prepared.lock().unwrap_or_else(PoisonError::into_inner);
        let is_same = |one: &Prepared| Arc::ptr_eq(&one.texts, texts) || *one.texts == **texts;
        match prepared.iter().position(is_same) {
            Some(0) => {}
            // Statements of other storages keep their order.
            Some(at) => prepared.make_contiguous()[..=at].rotate_right(1),
            None => {
                prepared.truncate(MOST_TABLES - 1);
                let statements = Arc::new(std::array::from_fn(|_| OnceCell::new()));
                prepared.push_front(Prepared { texts: texts.clone(), statements });
            }
        }
        prepared[0].statements.clone()
    }
}
