//! `walpost demo`: hands what was typed to the demo.

use super::arguments::DemoArguments;
use super::signals;
use crate::demo::{self, Demo};
use crate::error::OutboxError;
use crate::kafka::KafkaSettings;
use crate::telemetry::Console;

pub(super) async fn demo(arguments: &DemoArguments, console: &Console) -> Result<(), OutboxError> {
    let demo = Demo {
        kafka: arguments.brokers.as_ref().map(KafkaSettings::new),
        rate: arguments.rate,
        duration: arguments.duration,
    };
    demo::play(demo, signals::shutdown(console)?).await
}
