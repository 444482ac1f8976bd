//! What an act needs from outside, and how it gets it.
//!
//! An act awaits its [`Environment`]. The [`Task`] that wraps the act then stops with
//! [`Step::Needs`], and goes on when it is [resumed](Task::resume) with the [`Supply`]. No executor
//! runs it: whoever holds the task polls it by hand, meets its needs one by one, and may take as
//! long as it likes for each.

use std::cell::RefCell;
use std::fmt;
use std::future::{Future, poll_fn};
use std::pin::Pin;
use std::rc::Rc;
use std::task::{Context, Poll, Waker};

use super::error::Cause;
use crate::cookie::Binding;
use crate::cookie::cipher::OneTimeKey;
use crate::cookie::keys::Derivation;
use crate::storage::{Delete, Error, Get, LiveSession, Reply, Request, Sessions, Set, Update};

/// What an act needs next.
#[derive(Debug, PartialEq)]
pub enum Need {
    /// The request's values that a MAC may cover: [`Supply::Binding`].
    Binding,
    /// A key that takes long to derive: [`Supply::Key`].
    Derive(Box<Derivation>),
    /// An operation of the storage: [`Supply::Storage`].
    Storage(Request),
    /// An operation of the store of marks: [`Supply::Storage`].
    Revocation(Request),
}

/// What meets a [`Need`].
pub enum Supply {
    /// The request's values that a MAC may cover.
    Binding(Binding),
    /// The key, or why it cannot be derived now.
    Key(Result<Box<OneTimeKey>, String>),
    /// The storage's reply.
    Storage(Result<Reply, Error>),
}

/// Shows errors alone, because records and keys are secret.
impl fmt::Debug for Supply {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (name, error) = match self {
            Self::Binding(_) => ("Binding", None),
            Self::Key(result) => ("Key", result.as_ref().err().cloned()),
            Self::Storage(result) => ("Storage", result.as_ref().err().map(Error::to_string)),
        };
        formatter.debug_tuple(name).field(&error).finish()
    }
}

/// What an act and its [`Task`] hand to each other.
#[derive(Default)]
struct Mailbox {
    need: Option<Need>,
    supply: Option<Supply>,
    /// The key that was derived last.
    derived: Option<Box<(Derivation, OneTimeKey)>>,
    /// A failure that does not fail the act.
    warning: Option<String>,
}

/// An act's way to the outside.
#[derive(Clone)]
pub struct Environment(Rc<RefCell<Mailbox>>);

impl Environment {
    /// Returns the request's values that a MAC may cover.
    pub async fn binding(&self) -> Binding {
        match self.obtain(Need::Binding).await {
            Supply::Binding(binding) => binding,
            _ => Binding::default(),
        }
    }

    /// Derives a key. An act that tries the same cookie twice in a row has it derived once.
    ///
    /// # Errors
    ///
    /// Why the key cannot be derived now.
    pub async fn derive(&self, derivation: Derivation) -> Result<OneTimeKey, String> {
        if let Some((_, key)) = self.0.borrow().derived.as_deref().filter(|(of, _)| *of == derivation) {
            return Ok(key.clone());
        }
        let key = match self.obtain(Need::Derive(Box::new(derivation.clone()))).await {
            Supply::Key(result) => *result?,
            _ => return Err(Error::Mismatch.to_string()),
        };
        self.0.borrow_mut().derived = Some(Box::new((derivation, key.clone())));
        Ok(key)
    }

    /// Returns a record, or `None` if it does not exist.
    ///
    /// # Errors
    ///
    /// The storage cannot tell whether the record exists.
    pub async fn get(&self, get: Get) -> Result<Option<Vec<u8>>, Error> {
        match self.perform(get.into()).await? {
            Reply::Record(record) => Ok(Some(record)),
            Reply::Absent => Ok(None),
            Reply::Done | Reply::Sessions(_) | Reply::Records(_) => Err(Error::Mismatch),
        }
    }

    /// Stores a record.
    ///
    /// # Errors
    ///
    /// The storage's message; empty if a program's own storage gave none.
    pub async fn set(&self, set: Set) -> Result<(), Cause> {
        done(self.perform(set.into()).await)
    }

    /// Writes a record anew, and returns whether it exists.
    ///
    /// # Errors
    ///
    /// The record may have been written or not.
    pub async fn update(&self, update: Update) -> Result<bool, Error> {
        match self.perform(update.into()).await? {
            Reply::Done => Ok(true),
            Reply::Absent => Ok(false),
            Reply::Record(_) | Reply::Sessions(_) | Reply::Records(_) => Err(Error::Mismatch),
        }
    }

    /// Deletes a record.
    ///
    /// # Errors
    ///
    /// The storage's message; empty if a program's own storage gave none.
    pub async fn delete(&self, delete: Delete) -> Result<(), Cause> {
        done(self.perform(delete.into()).await)
    }

    /// Looks marks up. Returns their values in the order in which they were asked for, `None` for
    /// one that does not exist; or why one could not be looked up.
    ///
    /// # Errors
    ///
    /// None of them could be looked up.
    pub(super) async fn look_up(&self, mut marks: Vec<Get>) -> Result<Vec<Result<Option<Vec<u8>>, Error>>, Error> {
        let count = marks.len();
        let request = match (count, marks.pop()) {
            (1, Some(mark)) => mark.into(),
            (_, last) => {
                marks.extend(last);
                Request::GetEach(marks)
            }
        };
        match self.revocation(request).await? {
            Reply::Record(value) if count == 1 => Ok(vec![Ok(Some(value))]),
            Reply::Absent if count == 1 => Ok(vec![Ok(None)]),
            Reply::Records(values) if count == values.len() => Ok(values),
            _ => Err(Error::Mismatch),
        }
    }

    /// Deletes records.
    ///
    /// # Errors
    ///
    /// The storage's message; empty if a program's own storage gave none. Some of the records may
    /// have been deleted.
    pub async fn delete_each(&self, deletes: Vec<Delete>) -> Result<(), Cause> {
        done(self.perform(Request::DeleteEach(deletes)).await)
    }

    /// Returns the live sessions of an owner.
    ///
    /// # Errors
    ///
    /// The storage cannot tell.
    pub async fn sessions(&self, sessions: Sessions) -> Result<Vec<LiveSession>, Error> {
        match self.perform(sessions.into()).await? {
            Reply::Sessions(sessions) => Ok(sessions),
            Reply::Absent => Ok(Vec::new()),
            _ => Err(Error::Mismatch),
        }
    }

    /// Performs an operation of the store of marks.
    ///
    /// # Errors
    ///
    /// Those of the store.
    pub(super) async fn revocation(&self, request: Request) -> Result<Reply, Error> {
        match self.obtain(Need::Revocation(request)).await {
            Supply::Storage(result) => result,
            _ => Err(Error::Mismatch),
        }
    }

    /// Notes a failure that does not fail the act. The last one counts.
    pub(super) fn warn(&self, warning: String) {
        self.0.borrow_mut().warning = Some(warning);
    }

    async fn perform(&self, request: Request) -> Result<Reply, Error> {
        match self.obtain(Need::Storage(request)).await {
            Supply::Storage(result) => result,
            _ => Err(Error::Mismatch),
        }
    }

    async fn obtain(&self, need: Need) -> Supply {
        self.0.borrow_mut().need = Some(need);
        poll_fn(|_| match self.0.borrow_mut().supply.take() {
            Some(supply) => Poll::Ready(supply),
            None => Poll::Pending,
        })
        .await
    }
}

/// The result of a request that is either carried out or fails.
fn done(result: Result<Reply, Error>) -> Result<(), Cause> {
    match result? {
        Reply::Done => Ok(()),
        Reply::Absent => Err(Cause(None)),
        Reply::Record(_) | Reply::Sessions(_) | Reply::Records(_) => Err(Error::Mismatch.into()),
    }
}

/// An act under way, with the `T` that it returns in the end.
pub struct Task<T> {
    /// `None` once the act is done.
    future: Option<Pin<Box<dyn Future<Output = T>>>>,
    environment: Environment,
}

/// Where a task stopped.
pub enum Step<T> {
    /// It needs something, and then has to be [resumed](Task::resume).
    Needs(Need),
    /// The act is done.
    Done(T),
    /// It was resumed after it was done.
    Over,
}

impl<T> Task<T> {
    /// An act that has not started.
    pub fn new<F: Future<Output = T> + 'static>(act: impl FnOnce(Environment) -> F) -> Self {
        let environment = Environment(Rc::default());
        Self { future: Some(Box::pin(act(environment.clone()))), environment }
    }

    /// Starts the act, and runs it up to its first need or to its end.
    pub fn start(&mut self) -> Step<T> {
        self.advance()
    }

    /// Meets what the last step needed, and runs the act up to its next need or to its end.
    pub fn resume(&mut self, supply: Supply) -> Step<T> {
        self.environment.0.borrow_mut().supply = Some(supply);
        self.advance()
    }

    /// Takes the failure that the act noted without failing, if there is one.
    pub fn take_warning(&self) -> Option<String> {
        self.environment.0.borrow_mut().warning.take()
    }

    fn advance(&mut self) -> Step<T> {
        let Some(future) = &mut self.future else { return Step::Over };
        match future.as_mut().poll(&mut Context::from_waker(Waker::noop())) {
            Poll::Ready(result) => {
                self.future = None;
                Step::Done(result)
            }
            Poll::Pending => self.environment.0.borrow_mut().need.take().map_or(Step::Over, Step::Needs),
        }
    }
}
