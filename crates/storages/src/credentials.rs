//! How the library signs in at a server: with credentials that the options hold, or that a function
//! of the program returns, such as a token that lives for fifteen minutes.
//!
//! The function is called when a connection is made, unless it was called a moment ago
//! ([`FRESH`]), and when the server refuses what it returned before. It runs wherever its
//! [`Caller`] can run it, and leaves its result in a [`Slot`], for which the connection waits.
//!
//! A server is identified by its function, not by what the function returns: new credentials need
//! no new server.

use std::fmt;
use std::future::Future;
use std::hash::{Hash, Hasher};
use std::sync::Arc;
use std::time::{Duration, Instant};

use resty_session_core::secret::{Password, show_only};
use resty_session_core::settings::{self, Function, Reader, Setting, Value};
use tokio::sync::watch;
use tokio::time::timeout;

use crate::Error;

/// How long credentials that a function returned are good for further connections.
pub const FRESH: Duration = Duration::from_secs(30);

/// How long a call may go unanswered before the caller is asked again, in case it has lost the
/// call.
const CALL_AGAIN: Duration = Duration::from_secs(2);

/// What a server wants to know before it lets anybody in.
#[derive(Clone, Default, PartialEq, Eq, Hash)]
pub struct Credentials {
    /// The user to sign in as.
    pub username: Option<String>,
    /// The password that the user signs in with.
    pub password: Option<Password>,
}

show_only!(Credentials { username });

/// Where credentials come from.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum Login {
    /// The options hold them.
    Fixed(Credentials),
    /// A function returns them.
    Asked(Asked),
}

/// A function that returns credentials, or only a password.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Asked {
    slot: Arc<Slot>,
    returns: Returns,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash)]
enum Returns {
    /// The password of this user.
    Password(Option<String>),
    /// Username and password.
    Both,
}

/// Nobody.
impl Default for Login {
    fn default() -> Self {
        Self::Fixed(Credentials::default())
    }
}

impl Login {
    /// Reads the options `username` and `password`, or `credentials` in place of both.
    pub(crate) fn read(reader: &Reader) -> Result<Self, settings::Error> {
        let login = Self::read_named(reader, "username", "password")?;
        match reader.get::<Option<Function>>("credentials")?.flatten() {
            None => Ok(login),
            Some(function) if login == Self::default() => {
                Self::of_function(reader, "credentials", &function, Returns::Both)
            }
            Some(_) => Err(reader.invalid("credentials", "it replaces username and password: do not give these")),
        }
    }

    /// Reads a username and a password, which may be a function, from the options of these names.
    pub(crate) fn read_named(reader: &Reader, username: &str, password: &str) -> Result<Self, settings::Error> {
        let user = reader.text(username)?;
        match reader.get::<Function>(password) {
            Ok(Some(function)) => Self::of_function(reader, password, &function, Returns::Password(user)),
            _ => Ok(Self::Fixed(Credentials { username: user, password: reader.password(password)? })),
        }
    }

    fn of_function(
        reader: &Reader,
        option: &str,
        function: &Function,
        returns: Returns,
    ) -> Result<Self, settings::Error> {
        let slot = function.known_by().ok_or_else(|| reader.invalid(option, "a function cannot be called here"))?;
        Ok(Self::Asked(Asked { slot, returns }))
    }

    /// The username, if it is known without asking.
    pub fn username(&self) -> Option<&str> {
        match self {
            Self::Fixed(Credentials { username, .. })
            | Self::Asked(Asked { returns: Returns::Password(username), .. }) => username.as_deref(),
            Self::Asked(_) => None,
        }
    }

    /// Sets the username if it is missing.
    pub(crate) fn with_default_username(mut self, default: &str) -> Self {
        match &mut self {
            Self::Fixed(Credentials { username, .. })
            | Self::Asked(Asked { returns: Returns::Password(username), .. }) => {
                username.get_or_insert_with(|| default.to_owned());
            }
            Self::Asked(_) => {}
        }
        self
    }

    /// Connects with the credentials. If they come from a function and the server refuses them
    /// ([`Error::SignIn`]), connects once more with new ones, unless they were new.
    ///
    /// # Errors
    ///
    /// Those of `connect`, and [`Error::Credentials`]. There is no time limit: the caller has one
    /// for everything that connecting takes.
    pub async fn sign_in<T, F>(&self, connect: impl Fn(Credentials) -> F) -> Result<T, Error>
    where
        F: Future<Output = Result<T, Error>>,
    {
        let asked = match self {
            Self::Fixed(credentials) => return connect(credentials.clone()).await,
            Self::Asked(asked) => asked,
        };
        let before = asked.slot.round();
        loop {
            let (credentials, round) = asked.current().await?;
            let result = connect(credentials).await;
            if !matches!(result, Err(Error::SignIn(_))) {
                return result;
            }
            asked.slot.refuse(round);
            if round > before {
                return result;
            }
        }
    }
}

impl Asked {
    /// Returns credentials, and the number of the call that they come from.
    async fn current(&self) -> Result<(Credentials, u64), Error> {
        let (returned, round) = self.slot.current().await?;
        let credentials = self.returns.read(&returned).map_err(|problem| {
            self.slot.refuse(round);
            Error::Credentials(problem)
        })?;
        Ok((credentials, round))
    }
}

impl Returns {
    /// Reads what the function returned. An error's text never holds any of it, except for the
    /// message that a function of a password returns after nil, as functions in Lua do. What stands
    /// after a missing username is taken for a password.
    fn read(&self, returned: &Returned) -> Result<Credentials, String> {
        let text = |value: &Option<Value>, what: &str| -> Result<Password, String> {
            let value = value.as_ref().ok_or_else(|| format!("the function returned no {what}"))?;
            let text = Password::from_value(value).map_err(|problem| format!("{what}: {problem}"))?;
            if text.is_empty() { Err(format!("the function returned no {what}")) } else { Ok(text) }
        };
        match (self, returned) {
            (Self::Password(_), Returned(None, Some(message @ Value::Text(_)))) => Err(String::from_value(message)?),
            (Self::Password(username), Returned(password, _)) => {
                Ok(Credentials { username: username.clone(), password: Some(text(password, "password")?) })
            }
            (Self::Both, Returned(username, password)) => Ok(Credentials {
                username: Some(text(username, "username")?.to_string()),
                password: Some(text(password, "password")?),
            }),
        }
    }
}

/// The first two values that a function returned.
#[derive(Clone)]
pub struct Returned(pub Option<Value>, pub Option<Value>);

/// Whoever can call a function.
pub trait Caller: Send + Sync {
    /// Has the slot's function called soon, and its result [supplied](Slot::supply). Does nothing
    /// if a call is under way. Returns whether the function can still be called at all.
    fn call(&self, slot: &Arc<Slot>) -> bool;
}

/// A function that returns credentials, and what it returned last. Two are equal if they are the
/// same.
pub struct Slot {
    caller: Box<dyn Caller>,
    state: watch::Sender<State>,
}

#[derive(Default)]
struct State {
    /// The number of results so far.
    round: u64,
    /// What the function returned last, and when; or why it failed.
    result: Option<Result<(Returned, Instant), String>>,
    /// Whether a server has refused that.
    refused: bool,
    /// When the function was asked for the next result.
    asked: Option<Instant>,
}

impl Slot {
    /// A function that was not called yet.
    pub fn new(caller: impl Caller + 'static) -> Self {
        Self { caller: Box::new(caller), state: watch::Sender::default() }
    }

    /// Takes what the function returned, or why it failed.
    pub fn supply(&self, result: Result<Returned, String>) {
        self.state.send_modify(|state| {
            let result = result.map(|returned| (returned, Instant::now()));
            *state = State { round: state.round + 1, result: Some(result), refused: false, asked: None };
        });
    }

    fn round(&self) -> u64 {
        self.state.borrow().round
    }

    /// Notes that a server refused the result of this number.
    fn refuse(&self, round: u64) {
        self.state.send_if_modified(|state| {
            state.refused |= state.round == round;
            false
        });
    }

    /// Returns what the function returned last, if that is good for a new connection; otherwise has
    /// the function called, and waits for its result.
    async fn current(self: &Arc<Self>) -> Result<(Returned, u64), Error> {
        let mut state = self.state.subscribe();
        let before = state.borrow_and_update().round;
        loop {
            match state.borrow_and_update().usable(before) {
                Some(Ok(result)) => return Ok(result),
                Some(Err(problem)) => return Err(Error::Credentials(problem)),
                None => {}
            }
            if self.is_due() && !self.caller.call(self) {
                return Err(Error::Credentials("the Lua VM of the function has ended".to_owned()));
            }
            // The sender is this slot's own, and lives as long as the slot does.
            let _ = timeout(CALL_AGAIN, state.changed()).await;
        }
    }

    /// Whether the function has to be called now, and not by another connection that waits.
    fn is_due(&self) -> bool {
        let mut due = false;
        self.state.send_if_modified(|state| {
            due = state.asked.is_none_or(|asked| asked.elapsed() >= CALL_AGAIN);
            if due {
                state.asked = Some(Instant::now());
            }
            false
        });
        due
    }
}

impl State {
    /// The last result, if it can be used by a connection that found the results up to `before`
    /// there when it began.
    fn usable(&self, before: u64) -> Option<Result<(Returned, u64), String>> {
        match self.result.as_ref()? {
            Ok((returned, when)) if !self.refused && when.elapsed() < FRESH => Some(Ok((returned.clone(), self.round))),
            Err(problem) if self.round > before => Some(Err(problem.clone())),
            _ => None,
        }
    }
}

impl fmt::Debug for Slot {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str("function")
    }
}

impl PartialEq for Slot {
    fn eq(&self, other: &Self) -> bool {
        std::ptr::eq(self, other)
    }
}

impl Eq for Slot {}

impl Hash for Slot {
    fn hash<H: Hasher>(&self, state: &mut H) {
        std::ptr::hash(self, state);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::Cause;
    use std::sync::Mutex;
    use std::sync::atomic::{AtomicUsize, Ordering};

    use resty_session_core::settings::Section;

    /// Calls a function that returns, one after the other, what it is given.
    #[derive(Clone, Default)]
    struct Program(Arc<Shared>);

    #[derive(Default)]
    struct Shared {
        results: Mutex<Vec<Result<Returned, String>>>,
        calls: AtomicUsize,
    }

    impl Caller for Program {
        fn call(&self, slot: &Arc<Slot>) -> bool {
            self.0.calls.fetch_add(1, Ordering::Relaxed);
            let (slot, program) = (slot.clone(), self.clone());
            tokio::spawn(async move {
                tokio::task::yield_now().await;
                slot.supply(program.0.results.lock().unwrap().remove(0));
            });
            true
        }
    }

    fn text(text: &str) -> Option<Value> {
        Some(Value::Text(text.into()))
    }

    fn passwords(passwords: &[&str]) -> (Program, Login) {
        with_results(passwords.iter().map(|password| Ok(Returned(text(password), None))).collect())
    }

    fn with_results(results: Vec<Result<Returned, String>>) -> (Program, Login) {
        let program = Program::default();
        *program.0.results.lock().unwrap() = results;
        let slot = Arc::new(Slot::new(program.clone()));
        (program, Login::Asked(Asked { slot, returns: Returns::Password(Some("ada".into())) }))
    }

    /// A server that takes one password, and replies with the one that it was given.
    async fn sign_in(login: &Login, right: &str) -> Result<String, Error> {
        let connect = |credentials: Credentials| async move {
            assert_eq!(credentials.username.as_deref(), Some("ada"));
            let password = credentials.password.unwrap().to_string();
            if password == right { Ok(password) } else { Err(Error::SignIn(Cause::from("refused"))) }
        };
        login.sign_in(connect).await
    }

    fn run(test: impl Future<Output = ()>) {
        tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap().block_on(test);
    }

    fn calls(program: &Program) -> usize {
        program.0.calls.load(Ordering::Relaxed)
    }

    #[test]
    fn connections_of_one_moment_share_a_call() {
        run(async {
            let (program, login) = passwords(&["one"]);
            let together = (0..20).map(|_| sign_in(&login, "one"));
            for result in futures_util::future::join_all(together).await {
                assert_eq!(result.unwrap(), "one");
            }
            assert_eq!(sign_in(&login, "one").await.unwrap(), "one");
            assert_eq!(calls(&program), 1);
        });
    }

    #[test]
    fn what_the_server_refuses_is_asked_for_again_unless_it_is_new() {
        run(async {
            let (program, login) = passwords(&["one", "two", "wrong", "three"]);
            assert_eq!(sign_in(&login, "one").await.unwrap(), "one");
            assert_eq!(sign_in(&login, "two").await.unwrap(), "two");
            assert_eq!(calls(&program), 2);
            assert!(matches!(sign_in(&login, "three").await, Err(Error::SignIn(_))));
            assert_eq!(calls(&program), 3);
            assert_eq!(sign_in(&login, "three").await.unwrap(), "three");
            assert_eq!(calls(&program), 4);
        });
    }

    #[test]
    fn a_failure_is_not_kept() {
        run(async {
            let nothing = Returned(None, None);
            let message = Returned(None, text("away"));
            let number = Returned(Some(Value::Boolean(true)), None);
            let right = Returned(text("one"), None);
            let results = vec![Err("raised".into()), Ok(nothing), Ok(message), Ok(number), Ok(right)];
            let (program, login) = with_results(results);
            for problem in
                ["raised", "the function returned no password", "away", "password: string expected, got boolean"]
            {
                let error = sign_in(&login, "one").await.unwrap_err();
                assert_eq!(error.to_string(), format!("unable to get the credentials: {problem}"));
            }
            assert_eq!(sign_in(&login, "one").await.unwrap(), "one");
            assert_eq!(calls(&program), 5);
        });
    }

    #[test]
    fn a_function_whose_vm_has_ended_is_an_error() {
        struct Gone;
        impl Caller for Gone {
            fn call(&self, _: &Arc<Slot>) -> bool {
                false
            }
        }
        run(async {
            let login = Login::Asked(Asked { slot: Arc::new(Slot::new(Gone)), returns: Returns::Both });
            assert!(matches!(sign_in(&login, "one").await, Err(Error::Credentials(_))));
        });
    }

    #[test]
    fn what_a_function_returned_is_in_no_message() {
        let both = |first, second| Returns::Both.read(&Returned(first, second)).unwrap_err();
        assert_eq!(both(None, text("a password")), "the function returned no username");
        assert_eq!(both(None, None), "the function returned no username");
        assert_eq!(both(text(""), text("a password")), "the function returned no username");
        assert_eq!(both(text("ada"), None), "the function returned no password");
        assert_eq!(both(text("ada"), text("")), "the function returned no password");
        let Ok(found) = Returns::Both.read(&Returned(text("ada"), text("secret"))) else { panic!() };
        assert_eq!(format!("{found:?}"), "Credentials { username: Some(\"ada\"), .. }");
    }

    struct Options(Login);

    impl Section for Options {
        const STORAGE: &'static str = "redis";
        const OPTIONS: settings::Names = &[&["username", "password", "credentials"]];

        fn read(reader: &Reader) -> Result<Self, settings::Error> {
            Login::read(reader).map(Self)
        }
    }

    fn read(options: &[(&str, Value)]) -> Result<Login, String> {
        let table = options.iter().map(|(name, value)| ((*name).into(), value.clone())).collect();
        match settings::parse::<Options>(Some(&Value::Table(table))) {
            Ok((Options(login), _)) => Ok(login),
            Err(error) => Err(error.to_string()),
        }
    }

    #[test]
    fn a_function_identifies_its_server() {
        let function = || Value::Function(Function::new(Arc::new(Slot::new(Program::default()))));
        let (one, other) = (function(), function());
        let name = || Value::Text("ada".into());
        for option in ["password", "credentials"] {
            assert!(read(&[(option, one.clone())]) == read(&[(option, one.clone())]));
            assert!(read(&[(option, one.clone())]) != read(&[(option, other.clone())]));
        }
        let login = read(&[("username", name()), ("password", one.clone())]).unwrap();
        assert_eq!(login.username(), Some("ada"));
        assert_eq!(
            read(&[("password", one.clone())]).unwrap().with_default_username("postgres").username(),
            Some("postgres")
        );
        for more in [("username", name()), ("password", name()), ("password", other)] {
            let problem = read(&[more, ("credentials", one.clone())]).unwrap_err();
            assert_eq!(problem, "invalid redis credentials (it replaces username and password: do not give these)");
        }
        let foreign = Value::Function(Function::new(Arc::new(())));
        assert_eq!(
            read(&[("password", foreign)]).unwrap_err(),
            "invalid redis password (a function cannot be called here)"
        );
        assert_eq!(
            read(&[("credentials", name())]).unwrap_err(),
            "invalid redis credentials (function expected, got string)"
        );
    }
}
