//! Authentication: trust, cleartext, MD5, SCRAM-SHA-256, and the same bound to TLS (SCRAM-SHA-256-PLUS).
//!
//! Sources: PostgreSQL documentation, "Message Flow" (Start-up) and "SASL Authentication".

use fallible_iterator::FallibleIterator;
use postgres_protocol::authentication::md5_hash;
use postgres_protocol::authentication::sasl::{self, ChannelBinding, ScramSha256};
use postgres_protocol::message::backend::{AuthenticationSaslBody, Message};
use postgres_protocol::message::frontend;
use tokio_postgres::Config;
use tokio_postgres::config::ChannelBinding as Wanted;

use super::connection::{Connection, Startup, Wire, cannot_encode, fields_error};
use super::wire::Opened;
use crate::error::OutboxError;

const DURING: &str = "logging in";
/// How often a server may have the password hashed before it has shown that it knows it: a tenth of a second's work. The
/// same bound as in tokio-postgres and in pgjdbc; the server's own default is 4096 (`scram_iterations`).
const MOST_ITERATIONS: u64 = 100_000;

/// To what the login is to be bound, and can be.
#[derive(Clone, Debug)]
pub(super) struct Binding {
    /// `channel_binding`.
    pub(super) wanted: Wanted,
    pub(super) is_tls: bool,
    /// The hash of the server's certificate (RFC 5929, "tls-server-end-point"), if it has one.
    pub(super) end_point: Option<Vec<u8>>,
}

impl Binding {
    /// What there is over this wire.
    pub(super) fn of(config: &Config, opened: &Opened) -> Self {
        let (wanted, is_tls) = (config.get_channel_binding(), opened.security.is_tls());
        Binding { wanted, is_tls, end_point: opened.end_point.clone() }
    }

    /// How to log in with a password, given what the server offers.
    fn choose(
        &self,
        offered: &AuthenticationSaslBody,
    ) -> Result<(&'static str, ChannelBinding), OutboxError> {
        let (mut simple, mut plus) = (false, false);
        let mut mechanisms = offered.mechanisms();
        while let Some(mechanism) = mechanisms.next().map_err(bad_answer)? {
            simple |= mechanism == sasl::SCRAM_SHA_256;
            plus |= mechanism == sasl::SCRAM_SHA_256_PLUS;
        }
        if plus && !self.is_tls {
            // Somebody who ended TLS on the way would have passed it on.
            return Err(bad_answer("the server offers to bind the login to a TLS that is not there"));
        }
        match self.end_point.as_ref().filter(|_| self.wanted != Wanted::Disable) {
            Some(hash) if plus => {
                Ok((sasl::SCRAM_SHA_256_PLUS, ChannelBinding::tls_server_end_point(hash.clone())))
            }
            _ if self.wanted == Wanted::Require => Err(no_binding()),
            _ if !simple => Err(unsupported("a SASL mechanism other than SCRAM-SHA-256")),
            // The server, if it is the real one, ends this when it has offered to: somebody took it off the list.
            Some(_) => Ok((sasl::SCRAM_SHA_256, ChannelBinding::unrequested())),
            None => Ok((sasl::SCRAM_SHA_256, ChannelBinding::unsupported())),
        }
    }
}

/// Answers what the server asks for until it is content.
pub(super) async fn authenticate<S: Wire>(
    connection: &mut Connection<S>,
    startup: &Startup,
    binding: &Binding,
) -> Result<(), OutboxError> {
    let question = connection.message().await?;
    let is_unbound = matches!(
        question,
        Message::AuthenticationOk
            | Message::AuthenticationCleartextPassword
            | Message::AuthenticationMd5Password(_)
    );
    if is_unbound && binding.wanted == Wanted::Require {
        return Err(no_binding());
    }
    match question {
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
            let (mechanism, binding) = binding.choose(&body)?;
            let scram = ScramSha256::new(password(startup)?, binding);
            exchange(connection, &startup.user, mechanism, scram).await?;
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

async fn exchange<S: Wire>(
    connection: &mut Connection<S>,
    user: &str,
    mechanism: &str,
    mut scram: ScramSha256,
) -> Result<(), OutboxError> {
    frontend::sasl_initial_response(mechanism, scram.message(), connection.output())
        .map_err(cannot_encode)?;
    connection.flush().await?;
    match connection.message().await? {
        Message::AuthenticationSaslContinue(body) => {
            if iterations(body.data()).is_some_and(|count| count > MOST_ITERATIONS) {
                return Err(too_many_iterations(user));
            }
            scram.update(body.data()).map_err(bad_answer)?;
        }
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

/// The `i=` of the server's first message (RFC 5802, section 5.1). One that is no number is for the parser to refuse.
fn iterations(message: &[u8]) -> Option<u64> {
    let digits = message.split(|&byte| byte == b',').find_map(|part| part.strip_prefix(b"i="))?;
    let digits =
        std::str::from_utf8(digits).ok().filter(|text| text.bytes().all(|byte| byte.is_ascii_digit()))?;
    Some(digits.parse().unwrap_or(u64::MAX))
}

/// The password was stored in a form that takes too long to check, or the server lies.
pub(super) fn too_many_iterations(user: &str) -> OutboxError {
    OutboxError::definite(
        format!("the server asks to hash the password of role {user} more than {MOST_ITERATIONS} times"),
        format!(
            "SET scram_iterations = 4096 (at most {MOST_ITERATIONS}) and give the role its password again; if nobody has \
             raised it, this is not the server that it should be"
        ),
    )
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

/// The login has to be bound to TLS, and can't be.
pub(super) fn no_binding() -> OutboxError {
    OutboxError::definite(
        "channel_binding=require: the server does not log in with SCRAM-SHA-256-PLUS",
        "it takes TLS (sslmode=require or more), a password that was set while password_encryption was scram-sha-256, \
         scram-sha-256 as the method in pg_hba.conf, and a certificate of the server that is signed by RSA or ECDSA; or set \
         channel_binding=prefer",
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
