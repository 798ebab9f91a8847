//! `walpost dead-letters`: what waits, and what shall become of it.

mod list;
mod show;
mod wait;

use super::arguments::DeadLettersCommand;
use super::output;
use crate::config::Config;
use crate::error::OutboxError;
use crate::postgres::{DeadLetterOffice, Session, counted as count};
pub(super) use crate::telemetry::escape;

/// Carries out one of its commands.
pub(super) async fn dead_letters(command: &DeadLettersCommand, config: &Config) -> Result<(), OutboxError> {
    let office = DeadLetterOffice::of(&config.target);
    match command {
        DeadLettersCommand::List(arguments) => {
            let session = open(config, &office, false).await?;
            list::list(&session, &office, arguments, &config.target.slot).await
        }
        DeadLettersCommand::Show(arguments) => {
            let session = open(config, &office, false).await?;
            show::show(&session, &office, arguments).await
        }
        DeadLettersCommand::Replay(arguments) => {
            let mut session = open(config, &office, true).await?;
            let chosen = arguments.choice.chosen();
            let asked = office.replay(&mut session, &chosen, arguments.wait.is_some()).await?;
            output::write(&asked.told(&config.target.slot));
            match arguments.wait {
                Some(limit) => wait::wait(&session, &office, &asked, limit).await,
                None => Ok(()),
            }
        }
        DeadLettersCommand::Discard(arguments) => {
            let chosen = arguments.chosen()?;
            let mut session = open(config, &office, true).await?;
            output::write(&office.discard(&mut session, &chosen).await?.told());
            Ok(())
        }
    }
}

async fn open(config: &Config, office: &DeadLetterOffice, to_write: bool) -> Result<Session, OutboxError> {
    let session = Session::open_any(&config.database).await?;
    office.enter(&session, to_write).await?;
    Ok(session)
}

/// Bytes in hexadecimal digits.
fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bytes_are_two_digits_each() {
        assert_eq!(hex(&[0, 255]), "00ff");
    }
}
