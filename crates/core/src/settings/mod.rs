//! Options as programs write them, in no language's types, and how they become settings.
//!
//! A [`Value`] comes from Lua or from JSON. A [`Reader`] reads named options out of a [`Table`] of
//! values, each as a type that implements [`Setting`]. All options of all storages and of sessions
//! are read by the same rules:
//!
//! - An option that is absent, or null, has its default.
//! - `false` stands for no text, for an empty list, and for anything else that may be missing.
//! - Only a boolean is a boolean, because the text `"false"` would count as true in Lua.
//! - A number may be given as text, and a finite number stands for its text.
//! - How much or how many is rounded up, because 0 switches many an option off; infinity is very
//!   large.
//!
//! ```
//! use resty_session_core::settings::{self, Error, Names, Reader, Section, Value};
//!
//! #[derive(Debug, PartialEq)]
//! struct Server { host: String, port: u64 }
//!
//! impl Section for Server {
//!     const STORAGE: &'static str = "example";
//!     const OPTIONS: Names = &[&["host", "port"]];
//!
//!     fn read(reader: &Reader) -> Result<Self, Error> {
//!         let host = reader.text("host")?.unwrap_or_else(|| "127.0.0.1".into());
//!         Ok(Self { host, port: reader.whole("port")?.unwrap_or(7000) })
//!     }
//! }
//!
//! let json = serde_json::json!({ "port": "7001", "hots": "::1" });
//! let (server, hints) = settings::parse::<Server>(Value::from_json(json).as_ref())?;
//! assert_eq!(server, Server { host: "127.0.0.1".into(), port: 7001 });
//! assert_eq!(hints, [r#"unknown example option "hots" is ignored: did you mean "host"?"#]);
//!
//! let wrong = settings::parse::<Server>(Value::from_json(serde_json::json!({ "port": 0.5 })).as_ref());
//! assert_eq!(wrong.unwrap_err().to_string(), "invalid example port (whole number expected)");
//! # Ok::<_, Error>(())
//! ```

mod hints;
mod reader;
mod setting;
mod value;

pub(crate) use self::hints::hint;
pub use self::reader::Reader;
pub use self::setting::{Setting, Whole};
pub use self::value::{Function, Table, Value};

/// The names of options, in groups.
pub type Names = &'static [&'static [&'static str]];

/// An option that is not valid. Its text is shown to whoever wrote the option; it never repeats the
/// option's value, which may be a secret.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("invalid {option} ({cause})")]
pub struct Error {
    /// The option's name, after the storage's if it is an option of one: `redis port`.
    pub option: String,
    /// What is wrong with it.
    pub cause: String,
}

impl Error {
    /// An error about an option by its whole name.
    pub fn new(option: impl Into<String>, cause: impl Into<String>) -> Self {
        Self { option: option.into(), cause: cause.into() }
    }
}

/// The options of one storage.
pub trait Section: Sized {
    /// The storage's name. Errors and hints begin with it.
    const STORAGE: &'static str;
    /// The names of all options, including those that are accepted and not needed.
    const OPTIONS: Names;

    /// Reads the options.
    ///
    /// # Errors
    ///
    /// An option is not valid. Options that are not needed are checked, too.
    fn read(reader: &Reader) -> Result<Self, Error>;
}

/// Reads a storage's options. Returns them together with a hint for each name that is not an
/// option's, to be logged.
///
/// # Errors
///
/// An option is not valid, or the value is neither absent nor `false` nor a table.
pub fn parse<S: Section>(value: Option<&Value>) -> Result<(S, Vec<String>), Error> {
    let table = match value {
        None | Some(Value::Boolean(false)) => Table::default(),
        Some(value) => value.to_table().map_err(|cause| Error::new(S::STORAGE, cause))?,
    };
    let reader = Reader::of_storage(S::STORAGE, S::OPTIONS, &table);
    let settings = S::read(&reader)?;
    Ok((settings, reader.into_hints()))
}
