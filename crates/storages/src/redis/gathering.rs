//! Commands that are asked for at the same time, and go out as one pipeline.
//!
//! For the driver, a request is a message to its task, a channel for the reply, and a timer. The
//! bridge asks for many commands at once: like this, all of them are one request.

use std::sync::{Mutex, MutexGuard, PoisonError};

use redis::{Cmd, Pipeline, RedisResult, Value};
use tokio::sync::oneshot;

use super::access::Connection;
use crate::Error;

/// Commands that wait to be sent, and who waits for their replies.
#[derive(Default)]
pub(super) struct Gathering(Mutex<Vec<Gathered>>);

/// The commands of one operation, and who waits for the replies.
pub(super) enum Gathered {
    One(Cmd, Responder<Value>),
    /// They follow each other without others in between.
    Several(Vec<Cmd>, Responder<Vec<Value>>),
}

/// Receives the replies of an operation; errors of the server are among them.
pub(super) type Responder<T> = oneshot::Sender<Result<T, Error>>;

impl Gathering {
    /// Adds commands. Returns whether they are the first: then the caller must [take](Self::take)
    /// all of them soon and send them.
    pub(super) fn add(&self, gathered: Gathered) -> bool {
        let mut all = self.gathered();
        all.push(gathered);
        all.len() == 1
    }

    pub(super) fn take(&self) -> Vec<Gathered> {
        std::mem::take(&mut *self.gathered())
    }

    fn gathered(&self) -> MutexGuard<'_, Vec<Gathered>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Gathered {
    fn len(&self) -> usize {
        match self {
            Self::One(..) => 1,
            Self::Several(commands, _) => commands.len(),
        }
    }

    /// Whether nobody waits for the replies any more.
    fn is_abandoned(&self) -> bool {
        match self {
            Self::One(_, reply) => reply.is_closed(),
            Self::Several(_, reply) => reply.is_closed(),
        }
    }

    /// Moves the commands into a pipeline. Returns who waits for their replies.
    fn moved_to(self, pipeline: &mut Pipeline) -> Waiting {
        match self {
            Self::One(command, reply) => {
                pipeline.add_command(command);
                Waiting::One(reply)
            }
            Self::Several(commands, reply) => {
                let count = commands.len();
                for command in commands {
                    pipeline.add_command(command);
                }
                Waiting::Several(count, reply)
            }
        }
    }
}

/// The receivers of replies.
pub(super) enum Waiting {
    One(Responder<Value>),
    /// So many replies, together.
    Several(usize, Responder<Vec<Value>>),
}

impl Waiting {
    /// Hands over the next of the replies. `check` may make an error of one. Nobody receives them
    /// if their operation was dropped.
    pub(super) fn reply(self, values: &mut impl Iterator<Item = Value>, check: impl Fn(Value) -> Result<Value, Error>) {
        match self {
            Self::One(reply) => drop(reply.send(values.next().ok_or(Error::Broken).and_then(check))),
            Self::Several(count, reply) => {
                // All are taken, also those after one that is an error.
                let own: Vec<Value> = values.take(count).collect();
                drop(reply.send(own.into_iter().map(check).collect()));
            }
        }
    }

    pub(super) fn fail(self, error: Error) {
        match self {
            Self::One(reply) => drop(reply.send(Err(error))),
            Self::Several(_, reply) => drop(reply.send(Err(error))),
        }
    }
}

/// Commands of one pipeline, at most, unless one operation has more: their replies come together,
/// within the time for one.
const LONGEST: usize = 64;

/// Makes pipelines of commands, without those that nobody waits for any more.
pub(super) fn pipelines(gathered: Vec<Gathered>) -> impl Iterator<Item = (Pipeline, Vec<Waiting>)> {
    let mut rest = gathered.into_iter().filter(|gathered| !gathered.is_abandoned()).peekable();
    std::iter::from_fn(move || {
        let first = rest.next()?;
        let mut pipeline = Pipeline::with_capacity(first.len().max(rest.size_hint().1.unwrap_or(0).min(LONGEST)));
        let mut waiting = vec![first.moved_to(&mut pipeline)];
        while let Some(next) = rest.next_if(|next| pipeline.len() + next.len() <= LONGEST) {
            waiting.push(next.moved_to(&mut pipeline));
        }
        Some((pipeline, waiting))
    })
}

/// Sends commands, and waits for their replies: one for each, in their order.
pub(super) async fn send(connection: &mut Connection, pipeline: &Pipeline) -> RedisResult<Vec<Value>> {
    match (pipeline.len(), pipeline.cmd_iter().next()) {
        (1, Some(command)) => Ok(vec![connection.send(command).await?]),
        _ => connection.send_all(pipeline).await,
    }
}

pub(super) fn refuse(gathered: Vec<Gathered>, error: &Error) {
    for (_, waiting) in pipelines(gathered) {
        waiting.into_iter().for_each(|waiting| waiting.fail(error.clone()));
    }
}
