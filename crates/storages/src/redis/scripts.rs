//! Which scripts a server runs: chosen by an option, or learnt from its errors.

use std::sync::atomic::{AtomicU8, Ordering};

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
        let details = error.details().unwrap_or_default().to_ascii_lowercase();
        let says = |words: &[&str]| words.iter().any(|word| details.contains(word));
        match error.kind() {
            Some(ServerErrorKind::CrossSlot) => Some(Self::SingleKey),
            Some(ServerErrorKind::NoPerm) if says(&["'eval'"]) => Some(Self::None),
            // Also the words of proxies in front of servers.
            Some(ServerErrorKind::ResponseError)
                if says(&["unknown command", "unsupported command"]) && says(&["eval"]) =>
            {
                Some(Self::None)
            }
            _ => None,
        }
    }
}

/// What a server has shown that it does not run. It is kept as long as the server is known.
pub struct Learnt(AtomicU8);

impl Default for Learnt {
    fn default() -> Self {
        Self(AtomicU8::new(Scripts::All as u8))
    }
}

impl Learnt {
    /// Notes that the server runs no more than these. If that is new, returns what to tell operators.
    pub fn learn(&self, scripts: Scripts) -> Option<&'static str> {
        let before = self.0.fetch_max(scripts as u8, Ordering::Relaxed);
        match scripts {
            _ if before >= scripts as u8 => None,
            Scripts::All => None,
            Scripts::SingleKey => Some("it refuses scripts for several keys, so a save has several steps from now on"),
            Scripts::None => Some("it refuses scripts, so it gets plain commands from now on"),
        }
    }

    /// Returns which scripts the server runs, as far as is known.
    pub fn scripts(&self) -> Scripts {
        match self.0.load(Ordering::Relaxed) {
            0 => Scripts::All,
            1 => Scripts::SingleKey,
            _ => Scripts::None,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use redis::Value;

    fn allowed_after(reply: &str) -> Option<Scripts> {
        match redis::parse_redis_value(format!("-{reply}\r\n").as_bytes()) {
            Ok(Value::ServerError(error)) => Scripts::allowed_after(&error),
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
            assert_eq!(allowed_after(reply), allowed, "{reply}");
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
