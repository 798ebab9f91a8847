//! A panic is a fault of ours, and is told like any other: on one line, with its place. Not with its words as soon as
//! they have something of the moment in them, since that may be a message.

use std::any::Any;
use std::panic;
use std::thread;

use super::console::Console;

/// Lets panics end in the log.
pub(super) fn tell(console: Console) {
    panic::set_hook(Box::new(move |info| {
        let place = info.location().map(ToString::to_string).unwrap_or_default();
        let thread = thread::current().name().unwrap_or("?").to_owned();
        let advice = "this is a fault of Walpost itself: report it with this line; nothing is lost, and a restart goes on";
        tracing::error!(place, thread, advice, "panic: {}", words(info.payload()));
        // Nobody is there to do so behind the main thread's. If it can't be read, that is no reason to stay.
        let _ = console.flush();
    }));
}

/// Words that stand in the program, and no others.
fn words(payload: &(dyn Any + Send)) -> &'static str {
    payload.downcast_ref::<&'static str>().copied().unwrap_or("something that must not be")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_was_formatted_is_not_told() {
        assert_eq!(words(&"the words of the program"), "the words of the program");
        assert_eq!(words(&format!("a payload: {}", 1)), "something that must not be");
    }
}
