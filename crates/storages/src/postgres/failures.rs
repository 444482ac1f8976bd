//! What the errors of a Postgres server mean, and how programs are told.

use std::error::Error as _;

use tokio_postgres::error::SqlState;

use super::options::DIALECT;
use crate::sql::{Fault, Tables};
use crate::{Cause, Error};

pub fn fault(error: &tokio_postgres::Error) -> Fault {
    match error.code() {
        // The driver could not read the reply, or the connection is closed.
        None => Fault::Lost,
        Some(state) => fault_of(state),
    }
}

fn fault_of(state: &SqlState) -> Fault {
    /// The connection ends, or what was prepared on it is not valid any more.
    const LOST: [&SqlState; 7] = [
        &SqlState::ADMIN_SHUTDOWN,
        &SqlState::CRASH_SHUTDOWN,
        &SqlState::DATABASE_DROPPED,
        &SqlState::IDLE_SESSION_TIMEOUT,
        &SqlState::IDLE_IN_TRANSACTION_SESSION_TIMEOUT,
        &SqlState::INVALID_SQL_STATEMENT_NAME,
        // "cached plan must not change result type", after a change of the table.
        &SqlState::FEATURE_NOT_SUPPORTED,
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
pub fn to_error(error: tokio_postgres::Error, tables: &Tables) -> Error {
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
pub fn failed(error: tokio_postgres::Error) -> Error {
    Error::Driver(cause(error))
}

/// An error of connecting or signing in.
pub fn refused(error: tokio_postgres::Error) -> Error {
    match error.code() {
        Some(&SqlState::INVALID_PASSWORD | &SqlState::INVALID_AUTHORIZATION_SPECIFICATION) => {
            Error::SignIn(cause(error))
        }
        _ => Error::Connect(cause(error)),
    }
}

/// An error in the words of [`describe`].
pub fn cause(error: tokio_postgres::Error) -> Cause {
    Cause::new(describe(&error), error)
}

/// Describes an error: the server's message without its details, which may contain values, or what
/// happened to the connection.
pub fn describe(error: &tokio_postgres::Error) -> String {
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
        for (fault, codes) in [
            (Fault::Lost, ["57P01", "57P05", "08006", "08P01", "26000", "0A000"]),
            (Fault::Refused, ["57P03", "25006", "53300", "53300", "25006", "57P03"]),
            (Fault::Deadlock, ["40P01", "40001", "40001", "40P01", "40P01", "40001"]),
            (Fault::Failed, ["57014", "42P01", "53100", "22021", "23503", "XX000"]),
        ] {
            for code in codes {
                assert_eq!(fault_of(&SqlState::from_code(code)), fault, "{code}");
            }
        }
    }
}
