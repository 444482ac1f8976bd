//! The module's six functions. Each of the last four opens the request's session first.

use super::configuration::Random;
use super::{Configuration, Context, Error, Options, Session};

/// The result of an act on the request's session.
#[derive(Debug)]
pub struct Outcome {
    /// Whether the request had a session. If not, the act itself was not tried.
    pub exists: bool,
    /// Why the session did not open, or why the act failed.
    pub result: Result<(), Error>,
}

/// The configuration whose options are the defaults of all later ones. `previous` is the one that
/// it replaces, whose key it keeps unless the options have one.
///
/// # Errors
///
/// An option is wrong, or the operating system has no randomness for a key.
pub fn init(options: Options, previous: Option<&Configuration>, random: Random) -> Result<Configuration, Error> {
    Configuration::initial(options, previous, random)
}

/// The configuration of a new session.
///
/// # Errors
///
/// An option is wrong.
pub fn new(options: Options, defaults: &Configuration) -> Result<Configuration, Error> {
    Configuration::new(options, defaults)
}

/// Opens the session, if there is one.
pub async fn open(context: &Context, session: &mut Session) -> Outcome {
    let result = session.open(context).await;
    Outcome { exists: result.is_ok(), result }
}

/// Opens the session and refreshes it.
pub async fn start(context: &Context, session: &mut Session) -> Outcome {
    let mut outcome = open(context, session).await;
    if outcome.exists {
        outcome.result = Box::pin(session.refresh(context)).await;
    }
    outcome
}

/// Opens the session and logs its audience out. Clears cookies that don't open.
pub async fn logout(context: &Context, session: &mut Session) -> Outcome {
    let mut outcome = open(context, session).await;
    if outcome.exists {
        outcome.result = Box::pin(session.logout(context)).await;
        return outcome;
    }
    end_without(context, session, outcome, true).await
}

/// Opens the session and destroys it, and its remember cookie whatever `remember` says. Clears
/// cookies that don't open.
pub async fn destroy(context: &Context, session: &mut Session) -> Outcome {
    let mut outcome = open(context, session).await;
    if outcome.exists {
        outcome.result = Box::pin(session.destroy(context)).await;
        return outcome;
    }
    end_without(context, session, outcome, false).await
}

/// Ends what the request carries of a session that does not open; see [`Session::end_unopened`].
async fn end_without(context: &Context, session: &mut Session, outcome: Outcome, alone: bool) -> Outcome {
    match Box::pin(session.end_unopened(context, alone)).await {
        Ok(false) => outcome,
        Ok(true) => Outcome { exists: true, result: Ok(()) },
        Err(error) => Outcome { exists: true, result: Err(error) },
    }
}
