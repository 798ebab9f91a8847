//! Authentication: trust, cleartext, MD5, SCRAM-SHA-256.
//!
//! Sources: PostgreSQL documentation, "Message Flow" (Start-up) and "SASL Authentication".

use fallible_iterator::FallibleIterator;
use postgres_protocol::authentication::md5_hash;
use postgres_protocol::authentication::sasl::{self, ChannelBinding, ScramSha256};
use postgres_protocol::message::backend::Message;
use postgres_protocol::message::frontend;

use super::connection::{Connection, Startup, Wire, cannot_encode, fields_error};
use crate::error::OutboxError;

const DURING: &str = "logging in";

/// Answers what the server asks for until it is content.
pub(super) async fn authenticate<S: Wire>(
    connection: &mut Connection<S>,
    startup: &Startup,
) -> Result<(), OutboxError> {
    match connection.message().await? {
        Message::AuthenticationOk => return Ok(()),
        Message::AuthenticationCleartextPassword => {
            let password = password(startup)?;
            frontend::password_message(password, connection.output()).map_err(cannot_encode)?;
        }
        Message::AuthenticationMd5Password(body) => {
            let hash = md5_hash(startup.user.as_bytes(), password(startup)?, body.salt());
            frontend::password_message(hash.as_bytes(), connection.output()).map_err(cannot_encode)?;
        }
        Message::AuthenticationSasl(body) => {
            let mut mechanisms = body.mechanisms();
            let known =
                mechanisms.any(|mechanism| Ok(mechanism == sasl::SCRAM_SHA_256)).map_err(bad_answer)?;
            if !known {
                return Err(unsupported("a SASL mechanism other than SCRAM-SHA-256"));
            }
            scram(connection, password(startup)?).await?;
        }
        Message::ErrorResponse(body) => return Err(fields_error(DURING, body.fields())),
        _ => return Err(unsupported("a method other than password, md5 and scram-sha-256")),
    }
    connection.flush().await?;
    match connection.message().await? {
        Message::AuthenticationOk => Ok(()),
        Message::ErrorResponse(body) => Err(fields_error(DURING, body.fields())),
        _ => Err(bad_answer("expected the end of authentication")),
    }
}

async fn scram<S: Wire>(connection: &mut Connection<S>, password: &[u8]) -> Result<(), OutboxError> {
    let mut scram = ScramSha256::new(password, ChannelBinding::unsupported());
    frontend::sasl_initial_response(sasl::SCRAM_SHA_256, scram.message(), connection.output())
        .map_err(cannot_encode)?;
    connection.flush().await?;
    match connection.message().await? {
        Message::AuthenticationSaslContinue(body) => scram.update(body.data()).map_err(bad_answer)?,
        Message::ErrorResponse(body) => return Err(fields_error(DURING, body.fields())),
        _ => return Err(bad_answer("expected the server's first SCRAM message")),
    }
    frontend::sasl_response(scram.message(), connection.output()).map_err(cannot_encode)?;
    connection.flush().await?;
    match connection.message().await? {
        // A server that doesn't know the password either can't produce this signature.
        Message::AuthenticationSaslFinal(body) => scram.finish(body.data()).map_err(bad_answer),
        Message::ErrorResponse(body) => Err(fields_error(DURING, body.fields())),
        _ => Err(bad_answer("expected the server's last SCRAM message")),
    }
}

fn password(startup: &Startup) -> Result<&[u8], OutboxError> {
    startup.password.as_deref().ok_or_else(|| no_password(&startup.user))
}

/// The server asks and there is nothing to answer.
pub(super) fn no_password(user: &str) -> OutboxError {
    OutboxError::definite(
        format!("the server asks for the password of role {user}, and there is none"),
        "set PGPASSWORD, or put a line into the password file (~/.pgpass)",
    )
}

fn unsupported(what: &str) -> OutboxError {
    OutboxError::definite(
        format!("the server asks for {what}"),
        "give the role a line in pg_hba.conf with trust, password, md5 or scram-sha-256",
    )
}

fn bad_answer(why: impl Into<Box<dyn std::error::Error + Send + Sync>>) -> OutboxError {
    OutboxError::protocol("authentication failed", why)
}
