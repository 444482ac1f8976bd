//! The first commands on a connection: they sign in, choose the database, and show that the server
//! works.
//!
//! The driver gets the connection afterwards. A server that lets nobody in, because it has too many
//! connections or is in protected mode, says so without having been asked, and closes: the driver
//! would drop these words as a reply to nothing.

use redis::{Cmd, ServerError, Value, cmd};
use resty_session_core::secret::Password;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};

use super::errors::connect_error;
use crate::Error;
use crate::credentials::Credentials;
use crate::network::{self, Stream};

/// The longest line that is read, in bytes. Those of servers have less than 2000.
const LONGEST: usize = 16 * 1024;

/// Signs in if there is a password, chooses the database, and waits for a reply to a ping: all in
/// one round trip.
///
/// # Errors
///
/// The server refuses the credentials ([`Error::SignIn`]) or anything else, or closes the
/// connection.
pub(super) async fn greet(stream: &mut impl Stream, credentials: &Credentials, database: i64) -> Result<(), Error> {
    let select = (database != 0).then(|| cmd("SELECT").arg(database).take());
    let auth = auth(credentials, credentials.username.as_deref());
    let rest = select.into_iter().chain([cmd("PING")]);
    let commands: Vec<Cmd> = auth.into_iter().chain(rest.clone()).collect();
    let replies = exchange(stream, &commands).await?;
    if credentials.username.is_none() || !replies.first().is_some_and(knows_no_users) {
        return check(credentials, &commands, replies);
    }
    let commands: Vec<Cmd> = self::auth(credentials, None).into_iter().chain(rest).collect();
    check(credentials, &commands, exchange(stream, &commands).await?)
}

fn auth(credentials: &Credentials, username: Option<&str>) -> Option<Cmd> {
    let password = credentials.password.as_ref()?;
    Some(cmd("AUTH").arg(username).arg(&**password).take())
}

/// Whether this is how Redis 5 refuses a username: it has only a password.
fn knows_no_users(reply: &Value) -> bool {
    let Value::ServerError(error) = reply else { return false };
    error.details().is_some_and(|details| details.contains("wrong number of arguments for 'auth'"))
}

/// Sends commands whose replies are one line each. Returns the replies: all, or those that came
/// before the server closed the connection.
async fn exchange(stream: &mut impl Stream, commands: &[Cmd]) -> Result<Vec<Value>, Error> {
    let packed: Vec<u8> = commands.iter().flat_map(Cmd::get_packed_command).collect();
    // A server that has closed the connection may have said why: that is there to be read.
    let _ = async { stream.write_all(&packed).await.and(stream.flush().await) }.await;
    let (mut received, mut replies) = (Vec::new(), Vec::new());
    while replies.len() < commands.len() {
        match reply(stream, &mut received).await {
            Ok(reply) => replies.push(reply),
            Err(error) if replies.is_empty() => return Err(error),
            Err(_) => break,
        }
    }
    // Each later reply would be taken for that of another command.
    if received.is_empty() { Ok(replies) } else { Err(Error::Connect("the server sent an unexpected reply".into())) }
}

/// Reads a reply of one line. `received` is what was read already.
async fn reply(stream: &mut impl Stream, received: &mut Vec<u8>) -> Result<Value, Error> {
    loop {
        if let Some(end) = received.windows(2).position(|pair| pair == b"\r\n") {
            let line: Vec<u8> = received.drain(..end + 2).collect();
            return redis::parse_redis_value(&line).map_err(connect_error);
        }
        if received.len() > LONGEST {
            return Err(Error::Connect("the server's reply is too long".into()));
        }
        if stream.read_buf(received).await.map_err(network::connect_error)? == 0 {
            return Err(closed());
        }
    }
}

/// Checks the replies to commands of which the last is a ping.
fn check(credentials: &Credentials, commands: &[Cmd], replies: Vec<Value>) -> Result<(), Error> {
    let count = replies.len();
    for (at, reply) in replies.into_iter().enumerate() {
        match reply {
            Value::ServerError(error) if at + 1 == commands.len() && is_working(&error) => {}
            Value::ServerError(error) => return Err(refused(credentials, error)),
            _ => {}
        }
    }
    if count == commands.len() { Ok(()) } else { Err(closed()) }
}

/// Whether a server that refuses a ping in this way carries out other commands: those that its user
/// may run, or, if it cannot save its data, those that only read.
fn is_working(error: &ServerError) -> bool {
    matches!(error.code(), "NOPERM" | "MISCONF") || error.details().is_some_and(|it| it.contains("unknown command"))
}

fn refused(credentials: &Credentials, error: ServerError) -> Error {
    let error = connect_error(error.into());
    let holds = |password: &Password| error.to_string().contains(&**password);
    match credentials.password.as_ref().is_some_and(holds) {
        true => Error::Connect("the server refuses to sign anybody in".into()),
        false => error,
    }
}

fn closed() -> Error {
    Error::Connect("the server closed the connection".into())
}

#[cfg(test)]
mod tests {
    use super::*;
    use tokio::io::duplex;

    /// Greets a server that sends these words, each after it was sent something, and then closes.
    /// Returns what it was sent, too.
    fn greeted(words: &[&str]) -> (Result<(), Error>, String) {
        let password = Some("hush".to_owned().into());
        let credentials = Credentials { username: Some("ada".into()), password };
        let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
        runtime.block_on(async {
            let (mut client, mut server) = duplex(1000);
            let replying = async move {
                let mut asked = Vec::with_capacity(1000);
                for words in words {
                    server.read_buf(&mut asked).await.unwrap();
                    server.write_all(words.as_bytes()).await.unwrap();
                }
                String::from_utf8(asked).unwrap()
            };
            futures_util::join!(greet(&mut client, &credentials, 2), replying)
        })
    }

    #[test]
    fn a_server_is_greeted_in_one_round_trip() {
        let (result, asked) = greeted(&["+OK\r\n+OK\r\n+PONG\r\n"]);
        assert_eq!(result, Ok(()));
        let auth = "*3\r\n$4\r\nAUTH\r\n$3\r\nada\r\n$4\r\nhush\r\n";
        let rest = "*2\r\n$6\r\nSELECT\r\n$1\r\n2\r\n*1\r\n$4\r\nPING\r\n";
        assert_eq!(asked, format!("{auth}{rest}"));
        let arity = "-ERR wrong number of arguments for 'auth' command\r\n-NOAUTH x\r\n-NOAUTH x\r\n";
        let (result, asked) = greeted(&[arity, "+OK\r\n+OK\r\n+PONG\r\n"]);
        assert_eq!(result, Ok(()));
        assert_eq!(asked, format!("{auth}{rest}*2\r\n$4\r\nAUTH\r\n$4\r\nhush\r\n{rest}"));
    }

    #[test]
    fn servers_say_why_they_let_nobody_in() {
        let refuses = "the server refuses the username or the password";
        for (words, signs_in, text) in [
            ("-ERR max number of clients reached\r\n", true, "ERR max number of clients reached"),
            ("-DENIED protected\r\n", true, "DENIED protected"),
            ("-WRONGPASS invalid pair\r\n-NOAUTH x\r\n-NOAUTH x\r\n", false, refuses),
            ("-ERR invalid password\r\n-NOAUTH x\r\n-NOAUTH x\r\n", false, refuses),
            ("+OK\r\n+OK\r\n-NOAUTH Authentication required.\r\n", false, "NOAUTH Authentication required."),
            (
                "-ERR unknown command 'AUTH', with args beginning with: 'ada' 'hush'\r\n",
                true,
                "ERR unknown command 'AUTH'",
            ),
            ("-ERR who is hush?\r\n", true, "the server refuses to sign anybody in"),
            ("+OK\r\n-ERR DB index is out of range\r\n+PONG\r\n", true, "ERR DB index is out of range"),
            ("+OK\r\n+OK\r\n-LOADING x\r\n", true, "LOADING x"),
            ("+OK\r\n+OK\r\n", true, "the server closed the connection"),
            ("", true, "the server closed the connection"),
            ("+OK\r\n+OK\r\n+PONG\r\n+OK\r\n", true, "the server sent an unexpected reply"),
        ] {
            let error = greeted(&[words]).0.unwrap_err();
            assert_eq!(error.to_string(), format!("unable to connect: {text}"));
            assert_eq!(matches!(error, Error::Connect(_)), signs_in, "{words}");
        }
        for code in ["NOPERM no ping", "MISCONF no disk", "ERR unknown command 'PING'"] {
            assert_eq!(greeted(&[&format!("+OK\r\n+OK\r\n-{code}\r\n")]).0, Ok(()), "{code}");
        }
    }
}
