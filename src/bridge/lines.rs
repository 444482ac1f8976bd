//! Lines from the runtime's thread for nginx's log, which only the worker's own thread can write.

use super::Exchange;
use super::exchange::WeakExchange;
use super::flagged::Flagged;
use resty_session_storages::journal::{Journal, Level};

/// How many lines wait at most. Further ones are counted only.
const CAPACITY: usize = 100;

/// How long a line is at most, in bytes.
const LONGEST: usize = 1000;

/// The lines of a process that no Lua VM has taken yet.
///
/// Each VM that listens is woken for a line, and the first that comes takes it. If no VM listens,
/// the lines wait for the next request that takes a reply.
#[derive(Default)]
pub struct Lines(Flagged<State>);

#[derive(Default)]
struct State {
    lines: Vec<(Level, String)>,
    /// How many lines found no room.
    dropped: u64,
    readers: Vec<WeakExchange>,
}

impl Lines {
    /// Adds a VM that is woken for lines from now on.
    pub fn add_reader(&self, exchange: &Exchange) {
        let reader = exchange.downgrade();
        let mut state = self.0.lock();
        state.readers.retain(|other| other.is_alive() && !other.is(&reader));
        state.readers.push(reader);
    }

    /// Whether lines wait.
    pub fn are_there(&self) -> bool {
        self.0.is_set()
    }

    /// Takes the lines that wait. The last one tells how many were dropped, if any were.
    pub fn take(&self) -> Vec<(Level, String)> {
        let (mut lines, dropped) =
            self.0.take(|state| (std::mem::take(&mut state.lines), std::mem::take(&mut state.dropped)));
        if dropped > 0 {
            lines.push((Level::Warning, format!("{dropped} more lines were dropped")));
        }
        lines
    }
}

impl Journal for Lines {
    fn note(&self, level: Level, line: String) {
        let line = plain(&line);
        let mut readers = Vec::new();
        self.0.put(|state| {
            if state.lines.len() >= CAPACITY {
                state.dropped += 1;
                return false;
            }
            state.lines.push((level, line));
            readers.clone_from(&state.readers);
            true
        });
        readers.iter().for_each(WeakExchange::ring_soon);
    }
}

/// A line as the log may have it. Servers have a say in it, and must not be able to begin another.
fn plain(line: &str) -> String {
    let end = (0..=LONGEST).rev().find(|end| line.is_char_boundary(*end)).unwrap_or_default();
    let (line, cut) = if line.len() > LONGEST { (&line[..end], "…") } else { (line, "") };
    line.chars().map(|c| if c.is_control() { ' ' } else { c }).chain(cut.chars()).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::bridge::exchange::socket_bell;
    use std::io::Read;
    use std::os::unix::net::UnixStream;

    #[test]
    fn a_line_rings_those_who_read_and_the_first_takes_it() {
        let lines = Lines::default();
        lines.note(Level::Warning, "before anybody reads".into());
        let (ours, mut bell) = UnixStream::pair().unwrap();
        let exchange = Exchange::default();
        exchange.install_bell(socket_bell(ours).unwrap());
        bell.read_exact(&mut [0]).unwrap();
        assert!(exchange.drain().is_empty());
        {
            let gone = Exchange::default();
            lines.add_reader(&gone);
        }
        lines.add_reader(&exchange);
        lines.add_reader(&exchange);
        assert_eq!(lines.0.lock().readers.len(), 1);
        lines.note(Level::Notice, "after".into());
        bell.read_exact(&mut [0]).unwrap();
        assert!(lines.are_there());
        let taken: Vec<String> = lines.take().into_iter().map(|(_, line)| line).collect();
        assert_eq!(taken, ["before anybody reads", "after"]);
        assert!(!lines.are_there() && lines.take().is_empty());
    }

    #[test]
    fn what_a_server_says_begins_no_line_and_has_an_end() {
        let lines = Lines::default();
        let long = format!("{}é{}", "x".repeat(LONGEST - 1), "y".repeat(LONGEST));
        for line in ["down: \r\n2026/11/26 [alert] forged\u{1b}[2J\u{85}é", &long, &long[..LONGEST + 1]] {
            lines.note(Level::Warning, line.into());
        }
        let taken: Vec<String> = lines.take().into_iter().map(|(_, line)| line).collect();
        let cut = format!("{}…", "x".repeat(LONGEST - 1));
        assert_eq!(taken, ["down:   2026/11/26 [alert] forged [2J é", &cut, &cut]);
    }

    #[test]
    fn lines_that_nobody_takes_are_counted_in_the_end() {
        let lines = Lines::default();
        (0..CAPACITY + 7).for_each(|number| lines.note(Level::Warning, number.to_string()));
        let taken = lines.take();
        assert_eq!(taken.len(), CAPACITY + 1);
        assert_eq!(taken.last().unwrap(), &(Level::Warning, "7 more lines were dropped".to_owned()));
        lines.note(Level::Error, "again".into());
        assert_eq!(lines.take(), [(Level::Error, "again".to_owned())]);
    }
}
