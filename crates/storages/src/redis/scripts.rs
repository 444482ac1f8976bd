//! What a server does not run: scripts, as chosen by an option or learnt from its errors, and the
//! command that reads several keys.

use std::sync::atomic::{AtomicBool, AtomicU8, Ordering};

use redis::{ServerError, ServerErrorKind};

/// Which scripts may be used. Later ones ask less of the server.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Scripts {
    /// All, also those for several keys.
    All,
    /// Only those for one key, because keys may lie on different servers.
    SingleKey,
    /// None: the server or its user does not allow `EVAL`.
    None,
}

impl Scripts {
    /// Returns which scripts a server runs after all that refuses one with this error, or `None` if
    /// the error is another.
    pub fn allowed_after(error: &ServerError) -> Option<Self> {
        match error.kind() {
            Some(ServerErrorKind::CrossSlot) => Some(Self::SingleKey),
            _ => refuses(error, "eval").then_some(Self::None),
        }
    }
}

/// Whether a server, or a proxy in front of one, says that it does not know this command, or that
/// the user has no right to it.
fn refuses(error: &ServerError, command: &str) -> bool {
    let details = error.details().unwrap_or_default().to_ascii_lowercase();
    let says = |words: &[&str]| words.iter().any(|word| details.contains(word));
    match error.kind() {
        Some(ServerErrorKind::NoPerm) => details.contains(&format!("'{command}'")),
        Some(ServerErrorKind::ResponseError) => {
            says(&["unknown command", "unsupported command"]) && details.contains(command)
        }
        _ => false,
    }
}

/// What a server has shown that it does not run. It is kept as long as the server is known.
#[derive(Default)]
pub(super) struct Learnt {
    /// A number of [`Scripts`].
    scripts: AtomicU8,
    refuses_mget: AtomicBool,
}

impl Learnt {
    /// Notes that the server runs no more than these. If that is new, returns what to tell
    /// operators.
    pub(super) fn learn(&self, scripts: Scripts) -> Option<&'static str> {
        let before = self.scripts.fetch_max(scripts as u8, Ordering::Relaxed);
        match scripts {
            _ if before >= scripts as u8 => None,
            Scripts::All => None,
            Scripts::SingleKey => Some("it refuses scripts for several keys, so a save has several steps from now on"),
            Scripts::None => Some("it refuses scripts, so it gets plain commands from now on"),
        }
    }

    /// Whether the server refuses `MGET`, as far as is known.
    pub(super) fn refuses_mget(&self) -> bool {
        self.refuses_mget.load(Ordering::Relaxed)
    }

    /// Returns whether the error says that the server refuses `MGET`, and remembers it: the server
    /// does not know the command, the user may not use it or not for all keys, or keys may lie on
    /// different servers.
    pub(super) fn learn_from_mget(&self, error: &ServerError) -> bool {
        let may_not = matches!(error.kind(), Some(ServerErrorKind::CrossSlot | ServerErrorKind::NoPerm));
        let is_refused = may_not || refuses(error, "mget");
        self.refuses_mget.fetch_or(is_refused, Ordering::Relaxed);
        is_refused
    }

    /// Returns which scripts the server runs, as far as is known.
    pub(super) fn scripts(&self) -> Scripts {
        match self.scripts.load(Ordering::Relaxed) {
            0 => Scripts::All,
            1 => Scripts::SingleKey,
            _ => Scripts::None,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn error(text: &str) -> ServerError {
        match redis::parse_redis_value(format!("-{text}\r\n").as_bytes()) {
            Ok(redis::Value::ServerError(error)) => error,
            other => panic!("{other:?}"),
        }
    }

    #[test]
    fn servers_say_which_scripts_they_do_not_run() {
        for (reply, allowed) in [
            ("CROSSSLOT Keys in request don't hash to the same slot", Some(Scripts::SingleKey)),
            // Redis 7, 6, and one whose command is renamed.
            ("NOPERM User a has no permissions to run the 'eval' command", Some(Scripts::None)),
            ("NOPERM this user has no permissions to run the 'eval' command or its subcommand", Some(Scripts::None)),
            ("ERR unknown command 'EVAL', with args beginning with: 'x'", Some(Scripts::None)),
            ("ERR unknown command `EVAL`, with args beginning with: `x`", Some(Scripts::None)),
            ("NOPERM User a has no permissions to run the 'set' command", None),
            ("NOPERM No permissions to access a key", None),
            ("ERR unknown command 'UNLINK', with args beginning with: 'x'", None),
            ("READONLY You can't write against a read only replica.", None),
        ] {
            assert_eq!(Scripts::allowed_after(&error(reply)), allowed, "{reply}");
        }
    }

    #[test]
    fn servers_say_whether_they_refuse_to_read_several_keys_at_once() {
        let other = "LOADING Redis is loading the dataset in memory";
        for (reply, is_refused) in [
            ("CROSSSLOT Keys in request don't hash to the same slot", true),
            ("NOPERM User a has no permissions to run the 'mget' command", true),
            ("NOPERM No permissions to access a key", true),
            ("ERR unknown command 'MGET', with args beginning with: 'x'", true),
            (other, false),
        ] {
            let learnt = Learnt::default();
            assert_eq!(learnt.learn_from_mget(&error(reply)), is_refused, "{reply}");
            assert!(!learnt.learn_from_mget(&error(other)));
            assert_eq!(learnt.refuses_mget(), is_refused, "{reply}");
        }
    }

    #[test]
    fn what_is_learnt_is_never_forgotten() {
        let learnt = Learnt::default();
        assert_eq!(learnt.scripts(), Scripts::All);
        for scripts in [Scripts::SingleKey, Scripts::None] {
            assert!(learnt.learn(scripts).is_some());
            assert!([scripts, Scripts::All].iter().all(|scripts| learnt.learn(*scripts).is_none()));
            assert_eq!(learnt.scripts(), scripts);
        }
    }
}
