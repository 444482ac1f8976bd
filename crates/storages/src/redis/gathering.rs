//! Commands that are asked for at the same time, and go out as one pipeline.
//!
//! For the driver, a request is a message to its task, a channel for the answer, and a timer. The bridge asks for many
//! commands at once: like this, all of them are one request.

use std::sync::{Mutex, MutexGuard, PoisonError};

use redis::aio::MultiplexedConnection;
use redis::{Cmd, Pipeline, RedisResult, Value};
use tokio::sync::oneshot;

use crate::Error;

/// Commands that wait to be sent, and who waits for their answers.
#[derive(Default)]
pub struct Gathering(Mutex<Vec<Gathered>>);

pub type Gathered = (Cmd, Answer);

pub type Answer = oneshot::Sender<Result<Value, Error>>;

impl Gathering {
    /// Adds a command. Whether it is the first: then they have to be [taken](Self::take) and sent soon.
    pub fn add(&self, command: Cmd) -> (bool, oneshot::Receiver<Result<Value, Error>>) {
        let (answer, receiver) = oneshot::channel();
        let mut gathered = self.gathered();
        gathered.push((command, answer));
        (gathered.len() == 1, receiver)
    }

    pub fn take(&self) -> Vec<Gathered> {
        std::mem::take(&mut *self.gathered())
    }

    fn gathered(&self) -> MutexGuard<'_, Vec<Gathered>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Commands of one pipeline, at most: its answers come together, within the time for one.
const LONGEST: usize = 64;

/// Divides commands into pipelines, without those that nobody waits for any more.
pub fn pipelines(gathered: Vec<Gathered>) -> impl Iterator<Item = Vec<Gathered>> {
    let mut rest = gathered.into_iter().filter(|(_, answer)| !answer.is_closed());
    std::iter::from_fn(move || Some(rest.by_ref().take(LONGEST).collect::<Vec<_>>()).filter(|some| !some.is_empty()))
}

pub fn refuse(answers: impl IntoIterator<Item = Answer>, error: &Error) {
    for answer in answers {
        let _ = answer.send(Err(error.clone()));
    }
}

/// Sends commands, and waits for their answers: one for each, in their order.
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
