//! The rules of a session: configuration, times, audiences, and what the acts on a session do.
//!
//! An act (open, save, touch, …) is an `async fn` over a [`Session`]. It awaits only what it needs
//! from outside: the values of the request to bind to, a storage's reply, or a derived key. It gets
//! them from its [`Environment`](effect::Environment). The caller that drives the act sees each
//! [`Need`](effect::Need), and decides how to meet it.
//!
//! What tells the session's cookie from the remember cookie is in its [`CookieSettings`].
//!
//! ```
//! use std::rc::Rc;
//! use resty_session_core::session::{self, Context, Options, Session};
//! use resty_session_core::session::effect::{Step, Task};
//! use resty_session_core::time::Timestamp;
//!
//! # fn main() -> Result<(), Box<dyn std::error::Error>> {
//! let options = Options { secret: Some("a secret of random bytes".into()), ..Options::default() };
//! let configuration = Rc::new(session::init(options, None, getrandom::fill)?);
//!
//! // Sign in. The payload is JSON, with one [data, audience, subject] for each audience.
//! let mut task = Task::new(|environment| async move {
//!     let cookies = b"theme=dark".to_vec(); // the request's Cookie header
//!     let (now, random) = (Timestamp::from_secs(1_700_000_000), getrandom::fill);
//!     let context = Context { configuration, environment, cookies, unsendable: None, now, random };
//!     let mut session = Session::new(&context.configuration);
//!     session.payload = r#"[[{"name":"Ada"},"default","ada"]]"#.into();
//!     session.index = Some(0);
//!     let result = session.save(&context).await;
//!     (session, result)
//! });
//! // With cookie storage, and no remember cookie, a save needs nothing from outside.
//! let Step::Done((session, result)) = task.start() else { panic!() };
//! result?;
//! assert!(session.lines[0].starts_with("session=AQAA"));
//! # Ok(())
//! # }
//! ```

mod acts;
mod api;
pub mod audiences;
pub mod configuration;
mod cookie_settings;
pub mod effect;
mod error;
mod info;
mod keys;
mod leaving;
mod limit;
mod marks;
pub mod name;
pub mod note;
// The documentation's table of options says what each one means.
#[allow(missing_docs)]
mod options;
mod others;
#[doc(hidden)]
pub mod readers;
mod reading;
mod record;
mod revocation;
mod secrets;
pub mod sign_in;
pub mod subjects;
mod theft;
mod times;
mod writing;

pub use acts::{Context, Meta, Refused, Session, State};
pub use api::{Outcome, destroy, init, logout, new, open, start};
pub use configuration::{Configuration, Options};
pub use cookie_settings::{CookieSettings, Kind};
pub use error::{Cause, Error};
pub use keys::{Keys, Stage};
pub use marks::KnownMarks;
pub use options::Secure;
pub use revocation::{Revoked, revoke};
pub use times::{Remaining, Timeouts};
