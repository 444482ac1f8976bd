//! The options that protect sessions: how large their data may be, what they are bound to, when
//! they are renewed, and what happens to a remember cookie that was copied.

use super::invalid;
use crate::cookie::Flags;
use crate::cookie::compression::MAX_INFLATED_SIZE;
use crate::session::{Error, Options};

/// The most bytes of JSON that a session in cookies may hold, unless `max_data_size` says
/// otherwise.
const MAX_COOKIE_DATA_SIZE: usize = 1 << 20;
/// The most bytes of JSON that a session in a storage may hold, unless `max_data_size` says
/// otherwise.
const MAX_STORED_DATA_SIZE: usize = 4 << 20;

/// The protections that are off by default, and the limit of a session's size.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(in crate::session) struct Protection {
    max_data_size: Option<usize>,
    /// The bindings that a cookie must have.
    required: Flags,
    /// Whether a refresh saves a session that a fallback key opened.
    pub(in crate::session) renew_fallback: bool,
    /// Whether the return of a replaced remember cookie ends all sessions from the same sign-in.
    pub(in crate::session) remember_theft: bool,
}

impl Protection {
    /// Reads the options. `bind` are the bindings that are configured.
    ///
    /// # Errors
    ///
    /// An option is wrong.
    pub(super) fn read(options: &Options, bind: Flags) -> Result<Self, Error> {
        if options.max_data_size == Some(0) {
            return Err(invalid("max_data_size", "number of bytes over 0 expected"));
        }
        let require_bind = options.require_bind == Some(true);
        if require_bind && !bind.is_bound() {
            return Err(invalid("require_bind", "it needs bind, which is empty"));
        }
        let size = |size| usize::try_from(size).unwrap_or(MAX_INFLATED_SIZE).min(MAX_INFLATED_SIZE);
        Ok(Self {
            max_data_size: options.max_data_size.map(size),
            required: if require_bind { bind } else { Flags::default() },
            renew_fallback: options.renew_fallback == Some(true),
            remember_theft: match options.remember_theft.as_deref() {
                None | Some("") => false,
                Some("revoke") => true,
                Some(_) => return Err(invalid("remember_theft", "\"revoke\" expected")),
            },
        })
    }

    /// Checks that no option needs a storage if sessions are kept in cookies.
    ///
    /// # Errors
    ///
    /// An option needs a storage, but sessions are kept in cookies.
    pub(super) fn check_storage(&self, stored: bool) -> Result<(), Error> {
        if self.remember_theft && !stored {
            let cause =
                "it needs a storage: nothing notes which remember cookies were replaced if they are kept in cookies";
            return Err(invalid("remember_theft", cause));
        }
        Ok(())
    }

    /// The most bytes that the JSON of the data may have, and the JSON of the info.
    pub(in crate::session) fn max_data_size(&self, stored: bool) -> usize {
        self.max_data_size.unwrap_or(if stored { MAX_STORED_DATA_SIZE } else { MAX_COOKIE_DATA_SIZE })
    }

    /// Checks that a cookie with these flags has all bindings that it must have.
    ///
    /// # Errors
    ///
    /// [`Error::Unbound`] with those that it lacks.
    pub(in crate::session) fn check_bound(&self, flags: Flags) -> Result<(), Error> {
        if flags.contains(self.required) {
            return Ok(());
        }
        let names = [(Flags::BIND_IP, "ip"), (Flags::BIND_SCHEME, "scheme"), (Flags::BIND_USER_AGENT, "user-agent")];
        let missing = names.into_iter().filter(|(flag, _)| self.required.contains(*flag) && !flags.contains(*flag));
        Err(Error::Unbound(missing.map(|(_, name)| name).collect::<Vec<_>>().join(", ")))
    }
}
