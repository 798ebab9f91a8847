//! The side road of the loop: messages that can't be sent are parked, and sent again when somebody asks.

use std::collections::VecDeque;

use super::{Offer, OutboxProcessor, Stop};
use crate::dead_letters::{DeadLetter, DeadLetterStore, Parked, Replay};
use crate::error::OutboxError;
use crate::lsn::{Lsn, Position};
use crate::message::OutboxMessage;
use crate::mutants::{self, Mutant};
use crate::publisher::{OutboxPublisher, Ticket};
use crate::store::OutboxStore;

/// As many letters are stored at once, or sent again.
const MOST_LETTERS: usize = 500;
/// As many bytes of letters wait at most to be stored.
const MOST_BYTES: usize = 4 << 20;

/// Letters on their way to the store, and back to the broker.
#[derive(Debug, Default)]
pub(super) struct Letters {
    parked: Parked,
    /// Taken off the road, and not stored yet.
    pending: Vec<(Ticket, DeadLetter)>,
    bytes: usize,
    /// To be sent again.
    replay: VecDeque<Replay>,
    /// Sent again, without the store knowing it.
    sent: Vec<(Ticket, DeadLetter)>,
}

impl Letters {
    pub(super) fn learn(&mut self, parked: Parked) {
        self.parked = parked;
    }

    /// Whether letters have to be stored before more are taken off the road.
    pub(super) fn is_full(&self) -> bool {
        self.pending.len() >= MOST_LETTERS || self.bytes >= MOST_BYTES
    }

    /// The position of the letter that was sent again under this ticket.
    pub(super) fn replayed_as(&self, ticket: Ticket) -> Option<Position> {
        let found = self.sent.iter().find(|(own, _)| *own == ticket);
        found.map(|(_, letter)| letter.position)
    }
}

impl<S: OutboxStore + DeadLetterStore, P: OutboxPublisher> OutboxProcessor<S, P> {
    /// Whether the message is not to be sent: it was settled before, or it has to be parked.
    pub(super) fn sets_aside(&mut self, position: Position, message: &OutboxMessage) -> bool {
        if self.letters.parked.is_settled(position, message) {
            self.skip();
            return true;
        }
        if let Some(verdict) = self.docket.verdict(position).cloned() {
            self.put_aside(position, message, verdict.error, verdict.attempts);
            return true;
        }
        if self.letters.parked.keys.hold(message.topic(), message.key(), position) {
            self.put_aside(position, message, "follows an earlier message of its key".to_owned(), 0);
            return true;
        }
        if let Some(why) = self.docket.shuns(message.topic()).map(str::to_owned) {
            self.put_aside(position, message, why, 1);
            return true;
        }
        false
    }

    /// Parks a message that was refused on the spot for a reason that is known to stay.
    pub(super) fn park_refused(
        &mut self,
        position: Position,
        message: &OutboxMessage,
        refusal: &OutboxError,
    ) {
        self.put_aside(position, message, refusal.reason(), 1);
    }

    /// A row that is no message: parked, settled before, or refused.
    pub(super) fn pass_unfit(&mut self, letter: &DeadLetter, advice: &str) -> Result<(), OutboxError> {
        if self.letters.parked.is_settled(letter.position, &letter.message) {
            self.skip();
            return Ok(());
        }
        let refusal = OutboxError::message(letter.error.clone(), advice).at(letter.position);
        let verdict = self.docket.verdict(letter.position);
        let (topic, key) = (letter.message.topic(), letter.message.key());
        let waits = self.letters.parked.keys.hold(topic, key, letter.position);
        if verdict.is_none() && !waits && !self.docket.is_hopeless(&refusal) {
            return Err(refusal);
        }
        let attempts = verdict.map_or(1, |verdict| verdict.attempts);
        self.take_off(DeadLetter { attempts, ..letter.clone() });
        Ok(())
    }

    fn put_aside(&mut self, position: Position, message: &OutboxMessage, error: String, attempts: u32) {
        self.take_off(DeadLetter { position, message: message.clone(), unfit: None, error, attempts });
    }

    /// Takes a letter off the road; it counts as in flight until it is stored.
    fn take_off(&mut self, letter: DeadLetter) {
        let ticket = self.progress.next_ticket();
        self.progress.taken();
        self.letters.parked.keys.insert(letter.message.topic(), letter.message.key(), letter.position);
        self.letters.bytes += letter.message.payload().map_or(0, <[u8]>::len);
        self.letters.pending.push((ticket, letter));
    }

    /// A message that needs no handling any more.
    fn skip(&mut self) {
        let ticket = self.progress.next_ticket();
        self.progress.taken();
        self.progress.acknowledged(ticket);
    }

    /// Stores what was taken off the road; true if there was anything.
    pub(super) async fn park(&mut self) -> Result<bool, Stop> {
        if self.letters.pending.is_empty() {
            return Ok(false);
        }
        self.letters.bytes = 0;
        let (tickets, letters): (Vec<_>, Vec<_>) =
            std::mem::take(&mut self.letters.pending).into_iter().unzip();
        if mutants::active(Mutant::DeadLetterNotDurable) {
            tickets.iter().for_each(|ticket| self.progress.acknowledged(*ticket));
            self.confirm().await.map_err(Stop::Failed)?;
        }
        self.store.park(&letters).await.map_err(Stop::Failed)?;
        if let Some(refused) = letters.iter().find(|letter| letter.attempts > 0) {
            tracing::warn!(
                letters = letters.len(),
                position = %refused.position,
                error = refused.error,
                advice = "see `walpost dead-letters list`; mend the cause, then replay or discard",
                "parked as dead letters"
            );
        } else {
            tracing::debug!(letters = letters.len(), "parked behind dead letters of their keys");
        }
        self.vitals.parked(letters.len() as u64);
        for ticket in tickets {
            self.progress.acknowledged(ticket);
        }
        self.note_progress();
        Ok(true)
    }

    /// Sends the letters again that were asked for in the transaction at `request`; true when that is done, so
    /// that the road goes on. Everything before has to be acknowledged first, since it is older.
    pub(super) async fn replay(&mut self, request: Lsn) -> Result<bool, Stop> {
        while self.progress.in_flight() == 0 {
            if !self.letters.sent.is_empty() {
                let positions: Vec<_> = self.letters.sent.iter().map(|(_, letter)| letter.position).collect();
                self.store.replayed(&positions).await.map_err(Stop::Failed)?;
                tracing::info!(letters = positions.len(), "dead letters sent again");
                self.letters.sent.clear();
            }
            if self.letters.replay.is_empty() {
                let next = self.store.to_replay(request, MOST_LETTERS).await.map_err(Stop::Failed)?;
                self.letters.replay = next.into();
            }
            if self.letters.replay.is_empty() {
                let parked = self.store.parked().await.map_err(Stop::Failed)?;
                self.letters.learn(parked);
                self.batch.pop_front();
                return Ok(true);
            }
            self.send_again().await?;
        }
        Ok(false)
    }

    /// Offers the letters to the publisher until it is full.
    async fn send_again(&mut self) -> Result<(), Stop> {
        while let Some(next) = self.letters.replay.pop_front() {
            let message = &next.letter.message;
            let suspect = self.docket.suspects(next.letter.position);
            if (suspect || self.alone) && self.progress.in_flight() > 0 {
                self.letters.replay.push_front(next);
                break;
            }
            let ticket = self.progress.next_ticket();
            let offered = match self.router.route(message, next.send_as) {
                // What could be read of it is not what was written.
                _ if next.letter.unfit.is_some() => Err(unsendable(&next.letter)),
                Ok(record) => self.publisher.publish(ticket, &record),
                Err(refusal) => Err(refusal),
            };
            match offered {
                Ok(Offer::Taken) => {
                    self.progress.taken();
                    (self.alone, self.last_taken) = (suspect, next.letter.position);
                    self.letters.sent.push((ticket, next.letter));
                }
                Ok(Offer::Full) => {
                    self.letters.replay.push_front(next);
                    break;
                }
                Err(refusal) if refusal.is_message() => {
                    self.keep(&next.letter, &refusal).await?;
                    // Those behind it of its key stay too.
                    let (topic, key) = (&message.topic, &message.key);
                    let stays =
                        |other: &OutboxMessage| key.is_some() && other.topic == *topic && other.key == *key;
                    self.letters.replay.retain(|other| !stays(&other.letter.message));
                }
                Err(error) => return Err(Stop::Failed(error)),
            }
        }
        Ok(())
    }

    async fn keep(&mut self, letter: &DeadLetter, refusal: &OutboxError) -> Result<(), Stop> {
        let error = refusal.reason();
        tracing::warn!(position = %letter.position, error, advice = refusal.advice(), "a dead letter was refused again");
        self.store.refused_again(letter, &error).await.map_err(Stop::Failed)
    }

    /// A letter that was refused by the broker a second time stays a letter, without more tries.
    pub(super) async fn keep_refused_again(
        &mut self,
        failure: OutboxError,
    ) -> Result<OutboxError, OutboxError> {
        let certain = failure.is_message() && failure.company().is_none();
        let found =
            self.letters.sent.iter().position(|(_, letter)| Some(letter.position) == failure.position());
        let Some(index) = found.filter(|_| certain) else { return Ok(failure) };
        let (_, letter) = self.letters.sent.swap_remove(index);
        match self.keep(&letter, &failure).await {
            Ok(()) => Ok(OutboxError::transient("a dead letter was refused again")),
            Err(Stop::Refused(error) | Stop::Failed(error)) => Err(error),
        }
    }
}

/// A letter of a row that is no message can't be sent, however often somebody asks.
fn unsendable(letter: &DeadLetter) -> OutboxError {
    OutboxError::message(letter.error.clone(), "insert the row again as it should be, and discard the letter")
}
