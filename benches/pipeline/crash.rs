//! `kill -9` of a relay at full speed, and another one at once: how much comes again.

use std::time::{Duration, Instant};

use tokio::time::sleep;

use crate::backlog::Backlog;
use crate::drain::{alive, stop};
use crate::lab::Lab;
use crate::options::Options;
use crate::proc::Others;
use crate::table::Table;
use crate::topic::position;
use crate::workloads::Workload;

/// Fine, since a relay at full speed publishes some hundred rows in it.
const LOOK_EVERY: Duration = Duration::from_millis(1);

struct Crashed {
    /// Rows per second, from the first record to the kill.
    rate: f64,
    /// Rows in the topic when it was killed.
    published: f64,
    repeated: f64,
    /// From the kill until all was confirmed.
    recovered: f64,
    others: f64,
}

pub(crate) async fn measure(lab: &Lab, options: &Options, workload: &Workload) {
    let backlog = Backlog::full(lab, workload).await;
    let mut runs = Vec::new();
    for _ in 0..options.pairs {
        runs.push(kill(lab, &backlog, workload.rows).await);
    }
    lab.broker.delete_topic(&backlog.topic.name).await;
    let title =
        format!("{}, killed when two fifths are in the topic: {}", workload.name, workload.describe());
    let mut table = Table::new(title, runs.len());
    table.row("rows/s when killed, from the first record", runs.iter().map(|run| run.rate), 0);
    table.row("rows in the topic when killed", runs.iter().map(|run| run.published), 0);
    table.row("**rows that came again**", runs.iter().map(|run| run.repeated), 0);
    table.row("**the same in seconds of that rate**", runs.iter().map(|run| run.repeated / run.rate), 3);
    table.row("from the kill until all is confirmed, s", runs.iter().map(|run| run.recovered), 3);
    table.others("the run", runs.iter().map(|run| run.others));
    table.print();
    println!("\nEach topic was read back: every row, and without what came again in order.");
}

async fn kill(lab: &Lab, backlog: &Backlog<'_>, rows: u32) -> Crashed {
    let (slot, from) = (backlog.slot().await, backlog.topic.ends());
    let others = Others::watch(lab.family);
    let start = Instant::now();
    let mut relay = backlog.relay(&slot).spawn();
    let (mut first, mut count) = (None, 0);
    while count * 5 < u64::from(rows) * 2 {
        alive(&mut relay, start);
        sleep(LOOK_EVERY).await;
        count = backlog.topic.grown(&from);
        if count > 0 {
            first = first.or(Some((count, Instant::now())));
        }
    }
    let killed = Instant::now();
    relay.kill().await;
    let (earlier, since) = first.unwrap_or((0, start));
    // One look may have seen it all, if there is little.
    let (rows_since, since) = if count > earlier { (count - earlier, since) } else { (count, start) };
    let rate = rows_since as f64 / (killed - since).as_secs_f64();
    let mut relay = backlog.relay(&slot).spawn();
    while !backlog.confirmed(&slot).await {
        alive(&mut relay, start);
        sleep(LOOK_EVERY).await;
    }
    let recovered = killed.elapsed().as_secs_f64();
    let others = others.cores(Some(relay.id()));
    stop(relay).await;
    backlog.drop_slot(&slot).await;
    let verdict = backlog.topic.check(&from, rows, position);
    let good = verdict.missing == 0 && verdict.reordered == 0;
    assert!(good, "the topic is not what was committed: {verdict:?}");
    Crashed { rate, published: count as f64, repeated: verdict.repeated as f64, recovered, others }
}
