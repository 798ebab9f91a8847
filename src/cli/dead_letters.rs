//! `walpost dead-letters`: what waits, and what shall become of it.

mod list;
mod show;
mod wait;

use super::arguments::DeadLettersCommand;
use super::output;
use crate::config::Config;
use crate::error::OutboxError;
use crate::postgres::{Asked, DeadLetterOffice, Discarded, Session};

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
            output::write(&asked_text(&asked, &config.target.slot));
            match arguments.wait {
                Some(limit) => wait::wait(&session, &office, &asked, limit).await,
                None => Ok(()),
            }
        }
        DeadLettersCommand::Discard(arguments) => {
            let chosen = arguments.chosen()?;
            let mut session = open(config, &office, true).await?;
            output::write(&discarded_text(office.discard(&mut session, &chosen).await?));
            Ok(())
        }
    }
}

async fn open(config: &Config, office: &DeadLetterOffice, to_write: bool) -> Result<Session, OutboxError> {
    let session = Session::open_any(&config.database).await?;
    office.enter(&session, to_write).await?;
    Ok(session)
}

/// What a replay was asked for, and who will do it.
fn asked_text(asked: &Asked, slot: &str) -> String {
    let of = match (asked.keys, asked.keyless) {
        (0, _) => "without a key".to_owned(),
        (keys, 0) => format!("of {}", count(keys, "key", "keys")),
        (keys, keyless) => format!("of {}, {keyless} of them without one", count(keys, "key", "keys")),
    };
    let mut text = format!("replay requested: {} {of}\n", count(asked.letters, "letter", "letters"));
    if asked.earlier > 0 {
        let verb = if asked.earlier == 1 { "was" } else { "were" };
        text.push_str(&format!("{} of them {verb} requested before\n", asked.earlier));
    }
    text.push_str(&match asked.relay_pid {
        Some(pid) => format!("the relay that holds slot {slot} (PID {pid}) sends them now\n"),
        None => format!("nobody holds slot {slot} now: they are sent when `walpost run` starts\n"),
    });
    if asked.foreign > 0 {
        let verb = if asked.foreign == 1 { "lies" } else { "lie" };
        text.push_str(&format!(
            "{} of them {verb} beyond the end of the log, as after a restore into another database system: no relay \
             sends these. Insert them again (adapt the statement to a table that `setup` has not made), then discard \
             them: {}\n",
            asked.foreign, asked.insert_again
        ));
    }
    text
}

fn discarded_text(discarded: Discarded) -> String {
    let mut text = format!("discarded: {}\n", count(discarded.letters, "letter", "letters"));
    if discarded.requested > 0 {
        let what = count(discarded.requested, "replay", "replays");
        text.push_str(&format!("{what} had been requested, and may have been sent meanwhile\n"));
    }
    if discarded.left > 0 {
        let (what, verb) = if discarded.left == 1 { ("key", "stays") } else { ("keys", "stay") };
        let left = count(discarded.left, "letter", "letters");
        text.push_str(&format!("{left} of the same {what} {verb}, until replayed or discarded\n"));
    }
    text
}

/// A number and what it counts.
fn count(number: i64, one: &str, more: &str) -> String {
    format!("{number} {}", if number == 1 { one } else { more })
}

/// Text from a message or a server, with what would move a terminal's cursor or turn its text made visible.
pub(super) fn escape(text: &str) -> String {
    let mut escaped = String::with_capacity(text.len());
    for letter in text.chars() {
        let turns =
            matches!(letter, '\u{200B}'..='\u{200F}' | '\u{2028}'..='\u{202E}' | '\u{2066}'..='\u{2069}');
        if letter.is_control() || turns {
            escaped.extend(letter.escape_default());
        } else {
            escaped.push(letter);
        }
    }
    escaped
}

/// Bytes in hexadecimal digits.
fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_replay_says_what_and_who() {
        let asked = Asked { letters: 3, keys: 2, relay_pid: Some(7), ..Asked::default() };
        assert_eq!(
            asked_text(&asked, "walpost"),
            "replay requested: 3 letters of 2 keys\nthe relay that holds slot walpost (PID 7) sends them now\n"
        );
        let asked = Asked { letters: 1, keyless: 1, earlier: 1, ..Asked::default() };
        assert_eq!(
            asked_text(&asked, "s"),
            "replay requested: 1 letter without a key\n1 of them was requested before\n\
             nobody holds slot s now: they are sent when `walpost run` starts\n"
        );
        let asked =
            Asked { letters: 2, keys: 1, foreign: 1, insert_again: "SQL;".to_owned(), ..Asked::default() };
        assert!(asked_text(&asked, "s").contains("1 of them lies beyond the end of the log"));
        assert!(asked_text(&asked, "s").ends_with("then discard them: SQL;\n"));
        let asked = Asked { letters: 5, keys: 1, keyless: 2, ..Asked::default() };
        assert!(
            asked_text(&asked, "s").starts_with("replay requested: 5 letters of 1 key, 2 of them without")
        );
    }

    #[test]
    fn a_discard_says_what_stays() {
        let discarded = Discarded { letters: 1, requested: 1, left: 2 };
        assert_eq!(
            discarded_text(discarded),
            "discarded: 1 letter\n1 replay had been requested, and may have been sent meanwhile\n\
             2 letters of the same keys stay, until replayed or discarded\n"
        );
    }

    #[test]
    fn nothing_reaches_the_terminal_but_text() {
        assert_eq!(escape("a\x1b[2J\n\u{202E}ä\\"), "a\\u{1b}[2J\\n\\u{202e}ä\\");
        assert_eq!(hex(&[0, 255]), "00ff");
    }
}
