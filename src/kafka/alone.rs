//! Whether the brokers are away, or only this producer has lost them.
//!
//! librdkafka forgets each broker that the newest metadata does not name. A broker that is just starting may name its topics
//! and no broker at all; then nobody is left whom the client could ask, and it stays alone for ever while others publish.
//!
//! Source: <https://github.com/confluentinc/librdkafka/issues/5301>

use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use super::probe::reaches;
use super::settings::KafkaSettings;

/// How long no broker has answered before another client is asked, and then between two such looks.
const EVERY: Duration = Duration::from_secs(10);
/// How long that client waits for each of its two answers.
const ANSWER: Duration = Duration::from_secs(3);

/// Looks again with a new client, on a thread of its own, while a producer reaches nobody.
pub(super) struct Alone {
    settings: KafkaSettings,
    /// When to look next; none while brokers answer.
    due: Option<Instant>,
    look: Option<JoinHandle<bool>>,
}

impl Alone {
    /// Of settings whose secrets were read.
    pub(super) fn new(read: &KafkaSettings) -> Self {
        Alone { settings: read.clone(), due: None, look: None }
    }

    /// Whether a new client reaches the brokers that are `silent` to this producer. Does not block.
    pub(super) fn is_so(&mut self, silent: bool) -> bool {
        if !silent {
            (self.due, self.look) = (None, None);
            return false;
        }
        let now = Instant::now();
        let due = *self.due.get_or_insert(now + EVERY);
        if let Some(look) = self.look.take_if(|look| look.is_finished()) {
            self.due = Some(now + EVERY);
            return look.join().unwrap_or(false);
        }
        if self.look.is_none() && now >= due {
            let settings = self.settings.clone();
            let look = thread::Builder::new().name("kafka-look".to_owned());
            // Without a thread it is tried again at the next turn.
            self.look = look.spawn(move || reaches(&settings, ANSWER)).ok();
        }
        false
    }
}
