//! What the errors of a MySQL or MariaDB server, or of a proxy in front of one, mean, and how
//! programs are told.

use mysql_async::{Error as MySqlError, IoError};
use mysql_common::proto::codec::error::PacketCodecError;

use super::options::DIALECT;
use crate::sql::{Fault, Refusal, Tables};
use crate::{Cause, Error};

/// Errors that end the connection, or after which what was prepared on it is not valid any more.
mod lost {
    pub(super) const SHUTDOWN: u16 = 1053;
    pub(super) const NORMAL_SHUTDOWN: u16 = 1077;
    pub(super) const FORCING_CLOSE: u16 = 1080;
    pub(super) const ABORTING_CONNECTION: u16 = 1152;
    /// 1158 to 1161: reading or writing failed, or took too long.
    pub(super) const NET_ERRORS: std::ops::RangeInclusive<u16> = 1158..=1161;
    pub(super) const NEW_ABORTING_CONNECTION: u16 = 1184;
    pub(super) const UNKNOWN_STATEMENT: u16 = 1243;
    pub(super) const MUST_BE_PREPARED_AGAIN: u16 = 1615;
    pub(super) const KILLED: u16 = 1927;
    /// 2006 and 2013 are a client's codes, which proxies pass on: their own server is gone.
    pub(super) const SERVER_GONE: u16 = 2006;
    pub(super) const SERVER_LOST: u16 = 2013;
    pub(super) const KILLED_SESSION: u16 = 3169;
    pub(super) const IDLE_TOO_LONG: u16 = 4031;
}

/// Errors of a server that does not serve, or does not take writes, for now.
mod refused {
    pub(super) const TOO_MANY_CONNECTIONS: u16 = 1040;
    /// "Unknown command", which is also what a node of Galera says that is not in the cluster:
    /// "WSREP has not yet prepared node for application use".
    pub(super) const NOT_PREPARED: u16 = 1047;
    pub(super) const TOO_MANY_OF_USER: u16 = 1203;
    pub(super) const READ_ONLY: u16 = 1290;
    pub(super) const IN_READ_ONLY_TRANSACTION: u16 = 1792;
    pub(super) const READ_ONLY_MODE: u16 = 1836;
    pub(super) const INNODB_READ_ONLY: u16 = 1874;
    /// A node of Group Replication that has left the group cannot commit.
    pub(super) const HOOK_FAILED: u16 = 3100;
    /// A proxy finds no server that takes the statement.
    pub(super) const NO_SERVER: u16 = 9001;
}

const DEADLOCK: u16 = 1213;
/// A node of Group Replication has undone a transaction because another node was faster.
const UNDONE_AT_COMMIT: u16 = 3101;

pub(super) fn fault(error: &MySqlError) -> Fault {
    match error {
        MySqlError::Server(server) => fault_of(server.code),
        error if is_too_large(error) => Fault::Failed,
        // The driver could not read the reply, or the connection is closed.
        _ => Fault::Lost,
    }
}

/// Whether the driver did not send a packet, or did not read one, because it is larger than the
/// server or the program allows. The connection is of no use after that, but the server is not
/// lost.
pub(super) fn is_too_large(error: &MySqlError) -> bool {
    /// Whether a server says so, which it does before it closes the connection.
    const NET_PACKET_TOO_LARGE: u16 = 1153;
    match error {
        MySqlError::Server(server) => server.code == NET_PACKET_TOO_LARGE,
        MySqlError::Io(IoError::Io(error)) => {
            let inner = error.get_ref().and_then(|error| error.downcast_ref());
            matches!(inner, Some(PacketCodecError::PacketTooLarge))
        }
        _ => false,
    }
}

fn fault_of(code: u16) -> Fault {
    use {lost as l, refused as r};
    match code {
        l::SHUTDOWN | l::NORMAL_SHUTDOWN | l::FORCING_CLOSE | l::ABORTING_CONNECTION => Fault::Lost,
        l::NEW_ABORTING_CONNECTION | l::UNKNOWN_STATEMENT | l::MUST_BE_PREPARED_AGAIN => Fault::Lost,
        l::KILLED | l::SERVER_GONE | l::SERVER_LOST | l::KILLED_SESSION | l::IDLE_TOO_LONG => Fault::Lost,
        code if l::NET_ERRORS.contains(&code) => Fault::Lost,
        r::TOO_MANY_CONNECTIONS | r::NOT_PREPARED | r::TOO_MANY_OF_USER | r::READ_ONLY => Fault::Refused,
        r::IN_READ_ONLY_TRANSACTION | r::READ_ONLY_MODE | r::INNODB_READ_ONLY => Fault::Refused,
        r::HOOK_FAILED | r::NO_SERVER => Fault::Refused,
        DEADLOCK | UNDONE_AT_COMMIT => Fault::Deadlock,
        _ => Fault::Failed,
    }
}

/// What an error means that is the answer to a setting.
pub(super) fn refusal(error: &MySqlError) -> Refusal {
    match error {
        MySqlError::Server(server) => refusal_of(server.code),
        _ => Refusal::Passing,
    }
}

fn refusal_of(code: u16) -> Refusal {
    const SYNTAX: u16 = 1064;
    /// "Unknown error", which proxies answer to what they do not know.
    const UNKNOWN_ERROR: u16 = 1105;
    const UNKNOWN_VARIABLE: u16 = 1193;
    const NEEDS_PRIVILEGE: u16 = 1227;
    const IS_GLOBAL: u16 = 1229;
    const WRONG_VALUE: u16 = 1231;
    const CANNOT_BE_SET: u16 = 1238;
    match code {
        SYNTAX | UNKNOWN_ERROR | UNKNOWN_VARIABLE | NEEDS_PRIVILEGE => Refusal::Lasting,
        IS_GLOBAL | WRONG_VALUE | CANNOT_BE_SET => Refusal::Lasting,
        _ => Refusal::Passing,
    }
}

/// The error for the program.
pub(super) fn to_error(error: MySqlError, tables: &Tables) -> Error {
    const NO_SUCH_TABLE: u16 = 1146;
    const DATA_TOO_LONG: u16 = 1406;
    const TOO_LARGE: &str =
        "the packet of this record is larger than max_packet_size or the server's max_allowed_packet";
    match &error {
        MySqlError::Server(server) if server.code == NO_SUCH_TABLE => DIALECT.missing(tables, &server.message),
        MySqlError::Server(server) if server.code == DATA_TOO_LONG && server.message.contains("'sid'") => {
            Error::Server(format!("{}; hash_storage_key makes keys of marks fit", server.message))
        }
        _ if is_too_large(&error) => Error::Server(TOO_LARGE.to_owned()),
        _ => Error::Driver(cause(error)),
    }
}

/// An error in the words of [`describe`].
pub(super) fn cause(error: MySqlError) -> Cause {
    Cause::new(describe(&error), error)
}

/// Describes an error: the server's message, or what happened to the connection.
pub(super) fn describe(error: &MySqlError) -> String {
    match error {
        MySqlError::Server(server) => server.message.clone(),
        other => other.to_string(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn codes_are_told_apart() {
        let expected: [(Fault, &[u16]); 4] = [
            (Fault::Lost, &[1053, 1158, 1161, 1243, 1615, 1927, 2013, 4031]),
            (Fault::Refused, &[1040, 1047, 1203, 1290, 1792, 1836, 3100, 9001]),
            (Fault::Deadlock, &[1213, 3101]),
            (Fault::Failed, &[1146, 1205, 1317, 1406, 1461, 3024, 1021, 1969]),
        ];
        for (fault, codes) in expected {
            for code in codes {
                assert_eq!(fault_of(*code), fault, "{code}");
            }
        }
    }

    #[test]
    fn what_passes_is_no_refusal_of_a_setting() {
        let refused = |codes: &[u16], refusal| codes.iter().all(|code| refusal_of(*code) == refusal);
        assert!(refused(&[1064, 1105, 1193, 1227, 1229, 1231, 1238], Refusal::Lasting));
        assert!(refused(&[1021, 1037, 1041, 1205, 1317, 3024], Refusal::Passing));
    }
}
