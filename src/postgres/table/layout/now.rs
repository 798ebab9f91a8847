//! A row as its table has it now, which may be long after it was sent.

use super::{Cells, Layout, OutboxMessage, Tuple, UnfitRow};

impl Layout {
    /// The message of a row, and whether the conditions let it pass as it is now: what is written back into a row, or
    /// what somebody has changed in it, may keep out what was sent.
    pub(crate) fn message_now(&self, tuple: &Tuple) -> Result<(OutboxMessage, bool), Box<UnfitRow>> {
        if let Some(message) = self.message(tuple)? {
            return Ok((message, true));
        }
        Ok((self.build(tuple, &Cells::of(tuple, &self.kinds))?, false))
    }
}
