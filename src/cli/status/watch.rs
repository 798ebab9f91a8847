//! `walpost status --watch`: the same again and again.

use std::io::{IsTerminal as _, stdout};
use std::time::{Duration, SystemTime};

use serde_json::json;
use tokio::time::{MissedTickBehavior, interval};

use super::{Blind, Viewer, json as as_json, text};
use crate::cli::output;
use crate::config::Config;
use crate::error::OutboxError;

/// To the upper left corner; behind it, what is left of the screen is cleared.
const HOME: &str = "\x1b[H";
const REST_OF_LINE: &str = "\x1b[K\n";
const REST_OF_SCREEN: &str = "\x1b[J";

/// Looks until nobody reads any more, or the process is ended. A terminal is drawn anew; elsewhere each look is a line. A server
/// that is away is told and asked again; what is wrong with the first look already is an error.
pub(super) async fn watch(config: &Config, period: Duration, json: bool) -> Result<(), OutboxError> {
    let live = stdout().is_terminal() && !json;
    let mut viewer = Viewer::new(config);
    let mut clock = interval(period);
    clock.set_missed_tick_behavior(MissedTickBehavior::Delay);
    let mut seen = false;
    if live {
        output::write(REST_OF_SCREEN);
    }
    loop {
        clock.tick().await;
        let shown = match viewer.look().await {
            Ok(status) if live => screen(&status.text(), period),
            Ok(status) if json => as_json(&status)? + "\n",
            Ok(status) => status.line() + "\n",
            Err(blind) if !seen => return Err(blind.told(json)?),
            Err(Blind::Told(told)) if live => screen(&told.text(), period),
            Err(Blind::Told(told)) if json => as_json(&*told)? + "\n",
            Err(Blind::Told(told)) => told.line() + "\n",
            Err(Blind::Error(error)) if live => screen(&format!("UNKNOWN     {}\n", error.chain()), period),
            Err(Blind::Error(error)) if json => {
                json!({"verdict": "UNKNOWN", "reason": error.chain()}).to_string() + "\n"
            }
            Err(Blind::Error(error)) => {
                format!("{} UNKNOWN: {}\n", text::time(SystemTime::now()), error.chain())
            }
        };
        seen = true;
        if !output::write(&shown) {
            return Ok(());
        }
    }
}

fn screen(text: &str, period: Duration) -> String {
    let lines = text.lines().map(|line| format!("{line}{REST_OF_LINE}")).collect::<String>();
    let now = text::time(SystemTime::now());
    format!(
        "{HOME}{lines}{REST_OF_LINE}{now}, every {} s; Ctrl-C ends{REST_OF_LINE}{REST_OF_SCREEN}",
        period.as_secs()
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_screen_leaves_nothing_of_the_one_before() {
        let screen = screen("OK\nslot\n", Duration::from_secs(2));
        assert!(screen.starts_with("\x1b[HOK\x1b[K\nslot\x1b[K\n\x1b[K\n"), "{screen:?}");
        assert!(screen.ends_with("every 2 s; Ctrl-C ends\x1b[K\n\x1b[J"), "{screen:?}");
    }
}
