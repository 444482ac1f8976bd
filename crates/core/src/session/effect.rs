//! What an act needs from outside, and how it gets it.
//!
//! An act awaits its [`Host`]; the [`Task`] that wraps the act then stops with [`Step::Needs`], and goes on
//! once it is [resumed](Task::resume) with the [`Answer`]. There is no executor: whoever holds the task polls
//! it by hand, meets its needs one by one, and may take as long as it likes for each.

use std::cell::RefCell;
use std::fmt;
use std::future::{Future, poll_fn};
use std::pin::Pin;
use std::rc::Rc;
use std::task::{Context, Poll, Waker};

use super::audiences::Metadata;
use crate::cookie::Binding;
use crate::cookie::cipher::OneTimeKey;
use crate::cookie::keys::Derivation;
use crate::secret::show_only;

/// What an act needs next.
#[derive(Debug, PartialEq)]
pub enum Effect {
    /// The request's values that a MAC may cover: [`Answer::Binding`].
    Binding,
    /// A key that takes long to derive: [`Answer::Key`].
    Derive(Box<Derivation>),
    /// The record of a storage: [`Answer::Record`].
    Get(Get),
    /// Storing a record: [`Answer::Done`].
    Set(Box<Set>),
    /// Writing a record anew if it is there, for as long as it would have lived at most: [`Answer::Done`]; an error without
    /// words says that it is not there.
    Update(Box<Update>),
    /// Deleting a record: [`Answer::Done`].
    Delete(Delete),
}

#[derive(PartialEq)]
pub struct Get {
    pub name: Rc<str>,
    pub key: String,
    pub current_time: u64,
}

#[derive(PartialEq)]
pub struct Set {
    /// The cookie's name.
    pub name: Rc<str>,
    pub key: String,
    /// base64url in JSON.
    pub value: Vec<u8>,
    /// Seconds.
    pub ttl: u64,
    pub current_time: u64,
    /// The record that the new one replaces, which must go on working for `stale_ttl` seconds.
    pub old_key: Option<String>,
    /// Whether to store nothing if that record is no longer there.
    pub old_must_exist: bool,
    pub stale_ttl: u64,
    pub metadata: Option<Metadata>,
}

#[derive(PartialEq)]
pub struct Update {
    /// The cookie's name.
    pub name: Rc<str>,
    pub key: String,
    /// base64url in JSON.
    pub value: Vec<u8>,
    /// Seconds.
    pub ttl: u64,
    pub current_time: u64,
}

#[derive(PartialEq)]
pub struct Delete {
    pub name: Rc<str>,
    pub key: String,
    pub current_time: u64,
    pub metadata: Option<Metadata>,
}

show_only!(Get { name, current_time });
show_only!(Set { name, ttl, current_time, old_must_exist, stale_ttl });
show_only!(Update { name, ttl, current_time });
show_only!(Delete { name, current_time });

/// The result of an [`Effect`]. An error is the storage's message, if it has one.
pub enum Answer {
    Binding(Binding),
    /// The key, or why it could not be derived now.
    Key(Result<Box<OneTimeKey>, String>),
    Record(Result<Vec<u8>, Option<String>>),
    Done(Result<(), Option<String>>),
}

/// Shows errors alone, because records and keys are secret.
impl fmt::Debug for Answer {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (name, error) = match self {
            Self::Binding(_) => ("Binding", None),
            Self::Key(result) => ("Key", result.as_ref().err().cloned().map(Some)),
            Self::Record(result) => ("Record", result.as_ref().err().cloned()),
            Self::Done(result) => ("Done", result.as_ref().err().cloned()),
        };
        formatter.debug_tuple(name).field(&error).finish()
    }
}

#[derive(Default)]
struct Mailbox {
    need: Option<Effect>,
    answer: Option<Answer>,
    /// The key that was derived last.
    derived: Option<Box<(Derivation, OneTimeKey)>>,
}

/// An act's way to the outside.
#[derive(Clone)]
pub struct Host(Rc<RefCell<Mailbox>>);

impl Host {
    pub async fn binding(&self) -> Binding {
        match self.ask(Effect::Binding).await {
            Answer::Binding(binding) => binding,
            _ => Binding::default(),
        }
    }

    /// Derives a key. An act that tries the same cookie twice in a row has it derived once.
    ///
    /// # Errors
    ///
    /// Why it can't be derived now.
    pub async fn derive(&self, derivation: Derivation) -> Result<OneTimeKey, String> {
        if let Some((_, key)) = self.0.borrow().derived.as_deref().filter(|(of, _)| *of == derivation) {
            return Ok(key.clone());
        }
        let key = match self.ask(Effect::Derive(Box::new(derivation.clone()))).await {
            Answer::Key(result) => *result?,
            _ => return Err(MISMATCH.to_owned()),
        };
        self.0.borrow_mut().derived = Some(Box::new((derivation, key.clone())));
        Ok(key)
    }

    pub async fn get(&self, get: Get) -> Result<Vec<u8>, Option<String>> {
        match self.ask(Effect::Get(get)).await {
            Answer::Record(result) => result,
            _ => Err(Some(MISMATCH.to_owned())),
        }
    }

    pub async fn set(&self, set: Set) -> Result<(), Option<String>> {
        Self::done(self.ask(Effect::Set(Box::new(set))).await)
    }

    pub async fn update(&self, update: Update) -> Result<(), Option<String>> {
        Self::done(self.ask(Effect::Update(Box::new(update))).await)
    }

    pub async fn delete(&self, delete: Delete) -> Result<(), Option<String>> {
        Self::done(self.ask(Effect::Delete(delete)).await)
    }

    fn done(answer: Answer) -> Result<(), Option<String>> {
        match answer {
            Answer::Done(result) => result,
            _ => Err(Some(MISMATCH.to_owned())),
        }
    }

    async fn ask(&self, effect: Effect) -> Answer {
        self.0.borrow_mut().need = Some(effect);
        poll_fn(|_| match self.0.borrow_mut().answer.take() {
            Some(answer) => Poll::Ready(answer),
            None => Poll::Pending,
        })
        .await
    }
}

const MISMATCH: &str = "the answer does not match the request";

/// An act under way, with what it came to in the end: a `T`.
pub struct Task<T> {
    /// Gone once it is done.
    future: Option<Pin<Box<dyn Future<Output = T>>>>,
    host: Host,
    awaited: Awaited,
}

/// Which kind of answer a task goes on with.
#[derive(Clone, Copy, PartialEq)]
enum Awaited {
    Record,
    Key,
    Other,
}

/// Where a task stopped.
pub enum Step<T> {
    Needs(Effect),
    Done(T),
    /// It was resumed after it was done.
    Over,
}

impl<T> Task<T> {
    pub fn new<F: Future<Output = T> + 'static>(act: impl FnOnce(Host) -> F) -> Self {
        let host = Host(Rc::default());
        Self { future: Some(Box::pin(act(host.clone()))), host, awaited: Awaited::Other }
    }

    /// Whether the last step needs an [`Answer::Record`], and not another.
    pub fn needs_record(&self) -> bool {
        self.awaited == Awaited::Record
    }

    /// The answer that what the last step needed can't be had.
    pub fn failure(&self, cause: String) -> Answer {
        match self.awaited {
            Awaited::Record => Answer::Record(Err(Some(cause))),
            Awaited::Key => Answer::Key(Err(cause)),
            Awaited::Other => Answer::Done(Err(Some(cause))),
        }
    }

    /// Runs up to the first need, or to the end.
    pub fn start(&mut self) -> Step<T> {
        let Some(future) = &mut self.future else { return Step::Over };
        match future.as_mut().poll(&mut Context::from_waker(Waker::noop())) {
            Poll::Ready(result) => {
                self.future = None;
                Step::Done(result)
            }
            Poll::Pending => {
                let need = self.host.0.borrow_mut().need.take();
                self.awaited = match need {
                    Some(Effect::Get(_)) => Awaited::Record,
                    Some(Effect::Derive(_)) => Awaited::Key,
                    _ => Awaited::Other,
                };
                need.map_or(Step::Over, Step::Needs)
            }
        }
    }

    /// Goes on with the answer to what the last step needed.
    pub fn resume(&mut self, answer: Answer) -> Step<T> {
        self.host.0.borrow_mut().answer = Some(answer);
        self.start()
    }
}
