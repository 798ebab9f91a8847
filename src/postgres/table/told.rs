//! What was asked of the dead letters, as people read it: on a terminal and on the page.

use super::letter::{Asked, Discarded};

impl Asked {
    /// What a replay was asked for, and who will do it.
    pub(crate) fn told(&self, slot: &str) -> String {
        let of = match (self.keys, self.keyless) {
            (0, _) => "without a key".to_owned(),
            (keys, 0) => format!("of {}", counted(keys, "key", "keys")),
            (keys, keyless) => format!("of {}, {keyless} of them without one", counted(keys, "key", "keys")),
        };
        let mut text = format!("replay requested: {} {of}\n", counted(self.letters, "letter", "letters"));
        if self.earlier > 0 {
            let verb = if self.earlier == 1 { "was" } else { "were" };
            text.push_str(&format!("{} of them {verb} requested before\n", self.earlier));
        }
        text.push_str(&match self.relay_pid {
            Some(pid) => format!("the relay that holds slot {slot} (PID {pid}) sends them now\n"),
            None => format!("nobody holds slot {slot} now: they are sent when `walpost run` starts\n"),
        });
        if self.foreign > 0 {
            let verb = if self.foreign == 1 { "lies" } else { "lie" };
            text.push_str(&format!(
            "{} of them {verb} beyond the end of the log, as after a restore into another database system: no relay \
             sends these. Insert them again (adapt the statement to a table that `setup` has not made), then discard \
             them: {}\n",
            self.foreign, self.insert_again
        ));
        }
        text
    }
}

impl Discarded {
    /// What was given up, and what stays.
    pub(crate) fn told(self) -> String {
        let mut text = format!("discarded: {}\n", counted(self.letters, "letter", "letters"));
        if self.requested > 0 {
            let what = counted(self.requested, "replay", "replays");
            text.push_str(&format!("{what} had been requested, and may have been sent meanwhile\n"));
        }
        if self.left > 0 {
            let (what, verb) = if self.left == 1 { ("key", "stays") } else { ("keys", "stay") };
            let left = counted(self.left, "letter", "letters");
            text.push_str(&format!("{left} of the same {what} {verb}, until replayed or discarded\n"));
        }
        text
    }
}

/// A number and what it counts.
pub(crate) fn counted(number: i64, one: &str, more: &str) -> String {
    format!("{number} {}", if number == 1 { one } else { more })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_replay_says_what_and_who() {
        let asked = Asked { letters: 3, keys: 2, relay_pid: Some(7), ..Asked::default() };
        assert_eq!(
            asked.told("walpost"),
            "replay requested: 3 letters of 2 keys\nthe relay that holds slot walpost (PID 7) sends them now\n"
        );
        let asked = Asked { letters: 1, keyless: 1, earlier: 1, ..Asked::default() };
        assert_eq!(
            asked.told("s"),
            "replay requested: 1 letter without a key\n1 of them was requested before\n\
             nobody holds slot s now: they are sent when `walpost run` starts\n"
        );
        let asked =
            Asked { letters: 2, keys: 1, foreign: 1, insert_again: "SQL;".to_owned(), ..Asked::default() };
        assert!(asked.told("s").contains("1 of them lies beyond the end of the log"));
        assert!(asked.told("s").ends_with("then discard them: SQL;\n"));
        let asked = Asked { letters: 5, keys: 1, keyless: 2, ..Asked::default() };
        assert!(asked.told("s").starts_with("replay requested: 5 letters of 1 key, 2 of them without"));
    }

    #[test]
    fn a_discard_says_what_stays() {
        let discarded = Discarded { letters: 1, requested: 1, left: 2 };
        assert_eq!(
            discarded.told(),
            "discarded: 1 letter\n1 replay had been requested, and may have been sent meanwhile\n\
             2 letters of the same keys stay, until replayed or discarded\n"
        );
    }
}
