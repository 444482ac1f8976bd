//! Commands that are asked for at the same time, and go out as one pipeline.
//!
//! For the driver, a request is a message to its task, a channel for the reply, and a timer. The
//! bridge asks for many commands at once: like this, all of them are one request.

use std::sync::{Mutex, MutexGuard, PoisonError};

use redis::aio::MultiplexedConnection;
use redis::{Cmd, Pipeline, RedisResult, Value};
use tokio::sync::oneshot;

use crate::Error;

/// Commands that wait to be sent, and who waits for their replies.
#[derive(Default)]
pub struct Gathering(Mutex<Vec<Gathered>>);

pub type Gathered = (Cmd, Responder);

pub type Responder = oneshot::Sender<Result<Value, Error>>;

impl Gathering {
    /// Adds a command. Returns the receiver of its reply, and whether it is the first command: then
    /// the caller must [take](Self::take) all of them soon and send them.
    pub fn add(&self, command: Cmd) -> (bool, oneshot::Receiver<Result<Value, Error>>) {
        let (reply, receiver) = oneshot::channel();
        let mut gathered = self.gathered();
        gathered.push((command, reply));
        (gathered.len() == 1, receiver)
    }

    pub fn take(&self) -> Vec<Gathered> {
        std::mem::take(&mut *self.gathered())
    }

    fn gathered(&self) -> MutexGuard<'_, Vec<Gathered>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Commands of one pipeline, at most: its replies come together, within the time for one.
const LONGEST: usize = 64;

/// Divides commands into pipelines, without those that nobody waits for any more.
pub fn pipelines(gathered: Vec<Gathered>) -> impl Iterator<Item = Vec<Gathered>> {
    let mut rest = gathered.into_iter().filter(|(_, reply)| !reply.is_closed());
    std::iter::from_fn(move || Some(rest.by_ref().take(LONGEST).collect::<Vec<_>>()).filter(|some| !some.is_empty()))
}

pub fn refuse(replies: impl IntoIterator<Item = Responder>, error: &Error) {
    for reply in replies {
        let _ = reply.send(Err(error.clone()));
    }
}

/// Sends commands, and waits for their replies: one for each, in their order.
pub async fn send(connection: &mut MultiplexedConnection, commands: Vec<Cmd>) -> RedisResult<Vec<RedisResult<Value>>> {
    let values = if let [command] = commands.as_slice() {
        vec![connection.send_packed_command(command).await?]
    } else {
        let count = commands.len();
        let mut pipeline = Pipeline::with_capacity(count);
        for command in commands {
            pipeline.add_command(command);
        }
        connection.send_packed_commands(&pipeline, 0, count).await?
    };
    Ok(values.into_iter().map(Value::extract_error).collect())
}
