//! From a COMMIT to a consumer, beside the floor.

use std::sync::atomic::{AtomicU64, Ordering::Relaxed};

use crate::backlog::Backlog;
use crate::drain::stop;
use crate::floor::{Load, PRODUCER, Pace, Times, WRITERS};
use crate::lab::Lab;
use crate::options::Options;
use crate::proc::{self, DISTURBED, Others};
use crate::support::PATIENCE;
use crate::support::postgres::connect;
use crate::table::{grouped, number};
use crate::topic::Topic;
use crate::workloads::Workload;

/// Seconds at the beginning that are left out.
const SKIPPED: u32 = 2;

/// The server sends only what is on its disk: a commit that does not wait for that would count the server's own delay.
const SESSION: &str = "SET synchronous_commit = on";
const INSERT: &str =
    "INSERT INTO outbox.messages (id, topic, key, payload) VALUES ($1, $2, $3, $4::text::json)";

pub(crate) async fn measure(lab: &Lab, options: &Options, workload: &Workload, rate: u32) {
    let load = Load {
        rows: (rate * (options.seconds + SKIPPED)) as usize,
        skip: (rate * SKIPPED) as usize,
        rate,
        payload: workload.payload,
    };
    let backlog = Backlog::empty(lab, workload).await;
    let (slot, plain) = (backlog.slot().await, Topic::create(lab, 1).await);
    let (brokers, family) = (lab.broker.brokers(), lab.family);

    let others = Others::watch(family);
    let before = load.floor(brokers, &plain);
    let mut foreign = vec![others.cores(None)];

    let relay = backlog.relay(&slot).spawn();
    relay.wait_for_log("streaming", PATIENCE).await;
    let cpu = || proc::cpu(relay.id()).expect("it runs").own;
    let (others, cpu_before) = (Others::watch(family), cpu());
    let times = load.run(brokers, &backlog.topic, |pace| write(&backlog, pace));
    let cpu = cpu() - cpu_before;
    // What it has used before the watch is small, and counts for it.
    foreign.push(others.cores(Some(relay.id())));
    stop(relay).await;

    let others = Others::watch(family);
    let after = load.floor(brokers, &plain);
    foreign.push(others.cores(None));

    let title = format!(
        "{}: {} rows/s by {WRITERS} connections, one row a commit, payload {} B, {} s",
        workload.name,
        grouped(rate.into()),
        workload.payload,
        options.seconds
    );
    println!("\n### {title}\n\n| ms | p50 | p99 | p99.9 | most |\n| --- | ---: | ---: | ---: | ---: |");
    let skip = load.skip;
    line("**Walpost, from COMMIT's return to the consumer**", &between(&times.sent, &times.received, skip));
    line("Walpost, from before the INSERT to the consumer", &between(&times.begun, &times.received, skip));
    line("the INSERT and its COMMIT", &between(&times.begun, &times.sent, skip));
    line("floor before, from send to the consumer", &between(&before.begun, &before.received, skip));
    line("floor after", &between(&after.begun, &after.received, skip));
    notes(&load, [&before, &times, &after], cpu, &foreign);
    for topic in [&backlog.topic, &plain] {
        lab.broker.delete_topic(&topic.name).await;
    }
    backlog.drop_slot(&slot).await;
}

fn notes(load: &Load, times: [&Times; 3], cpu: f64, foreign: &[f64]) {
    let settings = PRODUCER.map(|(name, value)| format!("{name}={value}")).join(" ");
    let rates = times.map(|times| number(achieved(times, load.skip), 0)).join(", ");
    let foreign: Vec<String> = foreign
        .iter()
        .map(|it| format!("{}{}", number(*it, 2), if *it > DISTURBED { " (disturbed)" } else { "" }))
        .collect();
    println!(
        "\nThe floor is librdkafka alone ({settings}) at the same rate, before and after Walpost's turn."
    );
    println!("Writers and consumer are one process with one clock; the first {SKIPPED} s are left out.");
    println!("Rows/s achieved: {rates}. Foreign CPU, cores: {}.", foreign.join(", "));
    let share = cpu / (load.rows as f64 / f64::from(load.rate)) * 100.0;
    println!("Walpost used {} % of a core.", number(share, 1));
}

/// One connection's rows.
fn write(backlog: &Backlog<'_>, pace: &mut Pace<'_>) {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    runtime.block_on(async {
        let client = connect(&backlog.database.url).await.unwrap();
        client.batch_execute(SESSION).await.unwrap();
        let insert = client.prepare(INSERT).await.unwrap();
        while let Some(row) = pace.wait() {
            pace.begin();
            let values: [&(dyn tokio_postgres::types::ToSql + Sync); 4] =
                [&row.id, &backlog.topic.name, &row.key, &row.payload];
            client.execute(&insert, &values).await.unwrap();
            pace.sent();
        }
    });
}

/// Milliseconds from one moment to the other, in order; below zero where the consumer was faster than the commit's
/// answer.
fn between(from: &[AtomicU64], to: &[AtomicU64], skip: usize) -> Vec<f64> {
    let at = |moment: &AtomicU64| moment.load(Relaxed) as f64 / 1e6;
    let mut all: Vec<f64> = from.iter().zip(to).skip(skip).map(|(from, to)| at(to) - at(from)).collect();
    all.sort_by(f64::total_cmp);
    all
}

fn line(name: &str, sorted: &[f64]) {
    let at = |share: f64| {
        let rank = (sorted.len() as f64 * share).ceil() as usize;
        number(sorted[rank.clamp(1, sorted.len()) - 1], 2)
    };
    println!("| {name} | {} | {} | {} | {} |", at(0.5), at(0.99), at(0.999), at(1.0));
}

/// Rows per second, of those that count.
fn achieved(times: &Times, skip: usize) -> f64 {
    let all =
        |moments: &[AtomicU64]| moments.iter().skip(skip).map(|it| it.load(Relaxed)).collect::<Vec<_>>();
    let first = all(&times.begun).into_iter().min().unwrap_or_default();
    let last = all(&times.sent).into_iter().max().unwrap_or_default();
    (times.sent.len() - skip) as f64 / ((last - first) as f64 / 1e9)
}
