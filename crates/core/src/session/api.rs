//! The module's six functions. Each of the last four opens the request's session first.

use super::configuration::Random;
use super::{Act, Configuration, Error, Options, Session};

/// What an act on the request's session came to.
#[derive(Debug)]
pub struct Outcome {
    /// Whether the request had a session; the act itself was only tried where it had.
    pub exists: bool,
    pub result: Result<(), Error>,
}

/// The defaults of every later session.
///
/// # Errors
///
/// Options that are wrong, or no randomness for a key where none was configured.
pub fn init(options: Options, previous: Option<&Configuration>, random: Random) -> Result<Configuration, Error> {
    Configuration::initial(options, previous, random)
}

/// The configuration of a new session.
///
/// # Errors
///
/// Options that are wrong.
pub fn new(options: Options, defaults: &Configuration) -> Result<Configuration, Error> {
    Configuration::new(options, defaults)
}

/// Opens the session, if there is one.
pub async fn open(act: &Act, session: &mut Session) -> Outcome {
    let result = session.open(act).await;
    Outcome { exists: result.is_ok(), result }
}

/// Opens the session and refreshes it.
pub async fn start(act: &Act, session: &mut Session) -> Outcome {
    let mut outcome = open(act, session).await;
    if outcome.exists {
        outcome.result = Box::pin(session.refresh(act)).await;
    }
    outcome
}

/// Opens the session and logs its audience out. Cookies that don't open are cleared.
pub async fn logout(act: &Act, session: &mut Session) -> Outcome {
    let mut outcome = open(act, session).await;
    if outcome.exists {
        outcome.result = Box::pin(session.logout(act)).await;
        return outcome;
    }
    end_without(act, session, outcome, true).await
}

/// Opens the session and destroys it. Cookies that don't open are cleared. A remember cookie goes
/// along, whatever `remember` says.
pub async fn destroy(act: &Act, session: &mut Session) -> Outcome {
    let mut outcome = open(act, session).await;
    if outcome.exists {
        outcome.result = Box::pin(session.destroy(act)).await;
        return outcome;
    }
    end_without(act, session, outcome, false).await
}

/// Ends what there is to end without a session that opens; see [`Session::end_unopened`].
async fn end_without(act: &Act, session: &mut Session, outcome: Outcome, alone: bool) -> Outcome {
    match Box::pin(session.end_unopened(act, alone)).await {
        Ok(false) => outcome,
        Ok(true) => Outcome { exists: true, result: Ok(()) },
        Err(error) => Outcome { exists: true, result: Err(error) },
    }
}
