//! The side road of the loop: messages that can't be sent are parked, and sent again when somebody asks.

use std::collections::VecDeque;

use super::{Offer, OutboxProcessor, Stop};
use crate::dead_letters::{DeadLetter, DeadLetterStore, Parked, Reach, Replay};
use crate::error::OutboxError;
use crate::lsn::{Lsn, Position};
use crate::message::OutboxMessage;
use crate::mutants::{self, Mutant};
use crate::publisher::{OutboxPublisher, Ticket};
use crate::store::OutboxStore;
use crate::vitals::News;

/// As many letters are stored at once, or sent again.
const MOST_LETTERS: usize = 500;
/// As many bytes of letters wait at most to be stored.
const MOST_BYTES: usize = 4 << 20;

/// Letters on their way to the store, and back to the broker.
#[derive(Debug, Default)]
pub(super) struct Letters {
    parked: Parked,
    /// Taken off the road, and not stored yet; with their tickets.
    pending: Vec<DeadLetter>,
    tickets: Vec<Ticket>,
    bytes: usize,
    /// To be sent again.
    replay: VecDeque<Replay>,
    /// Sent again, without the store knowing it.
    sent: Vec<Sent>,
}

/// A letter that is on its way to the broker, or there.
#[derive(Debug)]
struct Sent {
    ticket: Ticket,
    replay: Replay,
    acknowledged: bool,
}

impl Letters {
    /// Whether letters have to be stored before more are taken off the road.
    pub(super) fn is_full(&self) -> bool {
        self.pending.len() >= MOST_LETTERS || self.bytes >= MOST_BYTES
    }

    /// The position of the letter that was sent again under this ticket.
    pub(super) fn replayed_as(&self, ticket: Ticket) -> Option<Position> {
        let found = self.sent.iter().find(|sent| sent.ticket == ticket);
        found.map(|sent| sent.replay.letter.position)
    }

    /// The broker has what was sent under this ticket.
    pub(super) fn acknowledged(&mut self, ticket: Ticket) {
        if let Some(sent) = self.sent.iter_mut().find(|sent| sent.ticket == ticket) {
            sent.acknowledged = true;
        }
    }
}

impl<S: OutboxStore, P: OutboxPublisher, L: DeadLetterStore> OutboxProcessor<S, P, L> {
    /// Asks what is parked.
    pub(super) async fn learn(&mut self) -> Result<(), OutboxError> {
        self.letters.parked = self.road.attend(self.kept.parked()).await?;
        Ok(())
    }

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
        self.road.vitals.tally().refused.add(1);
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
        self.letters.tickets.push(self.road.progress.next_ticket());
        self.road.progress.taken();
        self.letters.parked.keys.insert(letter.message.topic(), letter.message.key(), letter.position);
        self.letters.bytes += letter.footprint();
        self.letters.pending.push(letter);
    }

    /// A message that needs no handling any more.
    pub(super) fn skip(&mut self) {
        let ticket = self.road.progress.next_ticket();
        self.road.progress.taken();
        self.road.progress.acknowledged(ticket);
    }

    /// Stores what was taken off the road; true if there was anything. Until that is done it stays pending.
    pub(super) async fn park(&mut self) -> Result<bool, Stop> {
        if self.letters.pending.is_empty() {
            return Ok(false);
        }
        if mutants::active(Mutant::DeadLetterNotDurable) {
            self.letters.tickets.iter().for_each(|ticket| self.road.progress.acknowledged(*ticket));
            self.road.confirm().await.map_err(Stop::Failed)?;
        }
        let parked = self.kept.park(&self.letters.pending);
        self.road.attend(parked).await.map_err(Stop::Failed)?;
        let letters = std::mem::take(&mut self.letters.pending);
        self.letters.bytes = 0;
        if let Some(refused) = letters.iter().find(|letter| letter.attempts > 0) {
            let news = self.road.vitals.told().happen("parked as dead letters");
            if let Some(News { untold, .. }) = news {
                tracing::warn!(
                    letters = letters.len(),
                    position = %refused.position,
                    error = refused.error,
                    untold,
                    advice = "see `walpost dead-letters list`; mend the cause, then replay or discard",
                    "parked as dead letters"
                );
            }
        } else {
            tracing::debug!(letters = letters.len(), "parked behind dead letters of their keys");
        }
        self.road.vitals.parked(letters.len() as u64);
        for ticket in self.letters.tickets.drain(..) {
            self.road.progress.acknowledged(ticket);
        }
        self.road.note_progress();
        Ok(true)
    }

    /// Sends the letters again that were asked for in the transaction at `request`; true when that is done, so
    /// that the road goes on. Everything before has to be acknowledged first, since it is older.
    pub(super) async fn replay(&mut self, request: Lsn) -> Result<bool, Stop> {
        while self.road.progress.in_flight() == 0 {
            self.note_sent().await.map_err(Stop::Failed)?;
            if self.letters.replay.is_empty() {
                let next = self.kept.to_replay(request, MOST_LETTERS);
                self.letters.replay = self.road.attend(next).await.map_err(Stop::Failed)?.into();
            }
            if self.letters.replay.is_empty() {
                self.learn().await.map_err(Stop::Failed)?;
                self.batch.pop_front();
                return Ok(true);
            }
            self.send_again().await?;
        }
        Ok(false)
    }

    /// Tells the store which letters the broker has by now.
    async fn note_sent(&mut self) -> Result<(), OutboxError> {
        let sent = self.letters.sent.iter().filter(|sent| sent.acknowledged);
        let positions: Vec<_> = sent.map(|sent| sent.replay.letter.position).collect();
        if positions.is_empty() {
            return Ok(());
        }
        self.road.attend(self.kept.replayed(&positions)).await?;
        tracing::info!(letters = positions.len(), "dead letters sent again");
        self.road.vitals.tally().replayed.add(positions.len() as u64);
        self.road.vitals.letters_settled();
        self.letters.sent.retain(|sent| !sent.acknowledged);
        Ok(())
    }

    /// Offers the letters to the publisher until it is full, or receipts have to be taken in first: one of them may
    /// say that nothing more must be sent.
    async fn send_again(&mut self) -> Result<(), Stop> {
        while let Some(next) = self.letters.replay.front().filter(|_| self.road.receipts.is_empty()) {
            let message = &next.letter.message;
            let suspect = self.docket.suspects(next.letter.position);
            if (suspect || self.alone) && self.road.progress.in_flight() > 0 || self.road.rows.is_full() {
                break;
            }
            let ticket = self.road.progress.next_ticket();
            let offered = match self.router.route(message, next.send_as) {
                // What could be read of it is not what was written.
                _ if next.letter.unfit.is_some() => Err(unsendable(&next.letter)),
                Ok(record) => self.road.publisher.publish(ticket, &record),
                Err(refusal) => Err(refusal),
            };
            match offered {
                Ok(Offer::Taken) => {
                    self.road.rows.sent_again(ticket, message.id());
                    self.road.sent();
                    (self.alone, self.last_taken) = (suspect, next.letter.position);
                    let replay = self.letters.replay.pop_front();
                    let sent = replay.map(|replay| Sent { ticket, replay, acknowledged: false });
                    self.letters.sent.extend(sent);
                }
                Ok(Offer::Full) => break,
                Err(refusal) if refusal.is_message() => {
                    // It costs nothing to try the next ones, unless their topic takes none at all.
                    let reach = if refusal.topic().is_some() { Reach::Topic } else { Reach::Key };
                    if reach == Reach::Topic && self.road.progress.in_flight() > 0 {
                        // It would speak for those too that are on their way.
                        break;
                    }
                    let (next, why) = (next.clone(), refusal.reason());
                    // Before the store knows of it: should a stop come in between, it is asked again.
                    self.letters.replay.retain(|other| !reach.takes(&next, other));
                    self.keep(&next, &why, refusal.advice(), reach).await.map_err(Stop::Failed)?;
                }
                Err(error) => return Err(Stop::Failed(error)),
            }
        }
        self.road.tell_sent();
        Ok(())
    }

    /// A letter was refused again, and stays with those that this speaks for.
    async fn keep(
        &mut self,
        replay: &Replay,
        error: &str,
        advice: Option<&str>,
        reach: Reach,
    ) -> Result<(), OutboxError> {
        if let Some(News { untold, .. }) = self.road.vitals.told().happen("a dead letter was refused again") {
            let position = replay.letter.position;
            tracing::warn!(%position, error, advice, untold, "a dead letter was refused again");
        }
        self.road.vitals.tally().refused.add(1);
        self.road.attend(self.kept.refused_again(replay, error, reach)).await?;
        self.road.vitals.letters_settled();
        Ok(())
    }

    /// A letter that was refused by the broker a second time stays a letter, without more tries. The producer has to be
    /// made anew, which costs time, so that the broker's answer is taken for all that would be answered alike.
    pub(super) async fn keep_refused_again(&mut self) -> Result<(), OutboxError> {
        let Some(failure) = self.failure.as_ref().filter(|failure| failure.is_message()) else {
            return Ok(());
        };
        let of_letter = |sent: &&Sent| Some(sent.replay.letter.position) == failure.position();
        let Some(found) = self.letters.sent.iter().find(of_letter) else { return Ok(()) };
        let refused = failure.company().is_none().then(|| found.replay.clone());
        let (error, advice) = (failure.reason(), failure.advice().map(str::to_owned));
        let reach = if failure.is_too_large() { Reach::AsLarge } else { Reach::Topic };
        // Else these would come again.
        self.note_sent().await?;
        if let Some(refused) = refused {
            self.keep(&refused, &error, advice.as_deref(), reach).await?;
            self.failure = Some(OutboxError::transient("a dead letter was refused again"));
        }
        Ok(())
    }
}

/// A letter of a row that is no message can't be sent, however often somebody asks.
fn unsendable(letter: &DeadLetter) -> OutboxError {
    OutboxError::message(letter.error.clone(), "insert the row again as it should be, and discard the letter")
}
