//! What the errors of a Postgres server mean, and how programs are told.

use std::error::Error as _;

use tokio_postgres::error::SqlState;
use tokio_postgres::types::WrongType;

use super::options::DIALECT;
use crate::sql::{Fault, Refusal, Tables};
use crate::{Cause, Error};

pub(super) fn fault(error: &tokio_postgres::Error) -> Fault {
    match error.code() {
        // A value or a row does not fit the table's columns.
        None if is_of_columns(error) => Fault::Failed,
        // The driver could not read the reply, or the connection is closed.
        None => Fault::Lost,
        Some(state) if is_old_plan(state, error.as_db_error().and_then(|error| error.routine())) => Fault::Lost,
        Some(state) => fault_of(state),
    }
}

/// Whether a value or a row has another type than a column of the table.
pub(super) fn is_of_columns(error: &tokio_postgres::Error) -> bool {
    error.source().is_some_and(|cause| cause.is::<WrongType>())
}

/// Whether what was prepared is not valid any more after a change of the table: "cached plan must
/// not change result type". Other things that are not supported have the same code.
fn is_old_plan(state: &SqlState, routine: Option<&str>) -> bool {
    *state == SqlState::FEATURE_NOT_SUPPORTED && routine == Some("RevalidateCachedQuery")
}

/// What an error means that is the answer to a setting, or `None` if it does not concern the
/// setting.
pub(super) fn refusal(error: &tokio_postgres::Error) -> Option<Refusal> {
    let state = error.code()?;
    (fault_of(state) != Fault::Refused).then(|| refusal_of(state))
}

fn refusal_of(state: &SqlState) -> Refusal {
    /// Syntax errors and missing rights, and what is not supported.
    const CLASSES: [&str; 2] = ["42", "0A"];
    let is_lasting = CLASSES.iter().any(|class| state.code().starts_with(class))
        || [SqlState::INVALID_PARAMETER_VALUE, SqlState::CANT_CHANGE_RUNTIME_PARAM].contains(state);
    if is_lasting { Refusal::Lasting } else { Refusal::Passing }
}

fn fault_of(state: &SqlState) -> Fault {
    /// The connection ends, or what was prepared on it is not valid any more.
    const LOST: [&SqlState; 6] = [
        &SqlState::ADMIN_SHUTDOWN,
        &SqlState::CRASH_SHUTDOWN,
        &SqlState::DATABASE_DROPPED,
        &SqlState::IDLE_SESSION_TIMEOUT,
        &SqlState::IDLE_IN_TRANSACTION_SESSION_TIMEOUT,
        &SqlState::INVALID_SQL_STATEMENT_NAME,
    ];
    /// The server does not serve, or does not take writes, for now.
    const REFUSED: [&SqlState; 3] =
        [&SqlState::CANNOT_CONNECT_NOW, &SqlState::READ_ONLY_SQL_TRANSACTION, &SqlState::TOO_MANY_CONNECTIONS];
    const CONNECTION_EXCEPTIONS: &str = "08";
    match state {
        state if LOST.contains(&state) || state.code().starts_with(CONNECTION_EXCEPTIONS) => Fault::Lost,
        state if REFUSED.contains(&state) => Fault::Refused,
        &SqlState::T_R_DEADLOCK_DETECTED | &SqlState::T_R_SERIALIZATION_FAILURE => Fault::Deadlock,
        _ => Fault::Failed,
    }
}

/// The error for the program.
pub(super) fn to_error(error: tokio_postgres::Error, tables: &Tables) -> Error {
    match error.code() {
        Some(&SqlState::UNDEFINED_TABLE) => DIALECT.missing(tables, &describe(&error)),
        // A key of more than some 2,700 bytes does not fit into the index.
        Some(&SqlState::PROGRAM_LIMIT_EXCEEDED) => {
            Error::Server(format!("{}; hash_storage_key makes keys of marks shorter", describe(&error)))
        }
        _ => failed(error),
    }
}

/// An error of the driver's own.
pub(super) fn failed(error: tokio_postgres::Error) -> Error {
    Error::Driver(cause(error))
}

/// An error of connecting or signing in.
pub(super) fn refused(error: tokio_postgres::Error) -> Error {
    match error.code() {
        Some(&SqlState::INVALID_PASSWORD | &SqlState::INVALID_AUTHORIZATION_SPECIFICATION) => {
            Error::SignIn(cause(error))
        }
        _ => Error::Connect(cause(error)),
    }
}

/// An error in the words of [`describe`].
pub(super) fn cause(error: tokio_postgres::Error) -> Cause {
    Cause::new(describe(&error), error)
}

/// Describes an error: the server's message without its details, which may contain values, or what
/// happened to the connection.
pub(super) fn describe(error: &tokio_postgres::Error) -> String {
    match (error.as_db_error(), error.source()) {
        (Some(server), _) => server.message().to_owned(),
        (None, Some(cause)) => format!("{error}: {cause}"),
        (None, None) => error.to_string(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn states_are_told_apart() {
        let expected: [(Fault, &[&str]); 4] = [
            (Fault::Lost, &["57P01", "57P05", "08006", "08P01", "26000"]),
            (Fault::Refused, &["57P03", "25006", "53300"]),
            (Fault::Deadlock, &["40P01", "40001"]),
            (Fault::Failed, &["57014", "42P01", "53100", "22021", "23503", "XX000", "0A000"]),
        ];
        for (fault, codes) in expected {
            for code in codes {
                assert_eq!(fault_of(&SqlState::from_code(code)), fault, "{code}");
            }
        }
    }

    #[test]
    fn a_plan_of_former_columns_is_told_apart_from_what_is_not_supported() {
        let unsupported = &SqlState::FEATURE_NOT_SUPPORTED;
        assert!(is_old_plan(unsupported, Some("RevalidateCachedQuery")));
        assert!(!is_old_plan(unsupported, Some("standard_ProcessUtility")) && !is_old_plan(unsupported, None));
        assert!(!is_old_plan(&SqlState::UNDEFINED_TABLE, Some("RevalidateCachedQuery")));
    }

    #[test]
    fn what_passes_is_no_refusal_of_a_setting() {
        let are = |codes: &[&str], refusal| codes.iter().all(|code| refusal_of(&SqlState::from_code(code)) == refusal);
        assert!(are(&["42501", "42601", "42704", "0A000", "22023", "55P02"], Refusal::Lasting));
        assert!(are(&["57014", "53200", "55P03", "XX000", "08P01"], Refusal::Passing));
    }
}
