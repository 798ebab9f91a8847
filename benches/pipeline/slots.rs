//! One relay beside two, each of which has a slot of its own and half of the keys (row filters, PostgreSQL 15).

use std::time::{Duration, Instant};

use tokio::time::sleep;

use crate::backlog::Backlog;
use crate::drain::{alive, stop};
use crate::lab::Lab;
use crate::options::Options;
use crate::proc::{self, Others};
use crate::support::Walpost;
use crate::table::Table;
use crate::topic::position;
use crate::workloads::Workload;

const LOOK_EVERY: Duration = Duration::from_millis(5);

#[derive(Default)]
struct Run {
    /// Until all rows were confirmed, in seconds.
    done: f64,
    relays_cpu: f64,
    walsenders_cpu: f64,
    peak: f64,
    others: f64,
}

pub(crate) async fn measure(lab: &Lab, options: &Options, workload: &Workload) {
    let backlog = Backlog::full(lab, workload).await;
    let (mut ones, mut twos) = (Vec::new(), Vec::new());
    for _ in 0..options.pairs {
        ones.push(run(lab, &backlog, workload.rows, &["walpost"]).await);
        twos.push(run(lab, &backlog, workload.rows, &["walpost_even", "walpost_odd"]).await);
    }
    lab.broker.delete_topic(&backlog.topic.name).await;
    let mut table = Table::new(format!("{}: {}", workload.name, workload.describe()), ones.len());
    let rows = f64::from(workload.rows);
    table.row("one slot, rows/s, all confirmed", ones.iter().map(|run| rows / run.done), 0);
    table.row("two slots, rows/s, all confirmed", twos.iter().map(|run| rows / run.done), 0);
    table.row("**two slots / one slot**", ones.iter().zip(&twos).map(|(one, two)| one.done / two.done), 2);
    for (name, runs) in [("one slot", &ones), ("two slots", &twos)] {
        let per_million = |seconds: f64| seconds * 1e6 / rows;
        let walsenders = runs.iter().map(|run| per_million(run.walsenders_cpu));
        table.row(&format!("CPU s per million rows, walsenders, {name}"), walsenders, 2);
        let relays = runs.iter().map(|run| per_million(run.relays_cpu));
        table.row(&format!("CPU s per million rows, relays, {name}"), relays, 2);
        table.row(
            &format!("peak resident MB, relays together, {name}"),
            runs.iter().map(|run| run.peak / 1e6),
            1,
        );
        table.others(name, runs.iter().map(|run| run.others));
    }
    table.print();
    println!("\nEach topic was read back: every row once, in order within its key.");
}

async fn run(lab: &Lab, backlog: &Backlog<'_>, rows: u32, publications: &[&str]) -> Run {
    let from = backlog.topic.ends();
    let mut slots = Vec::new();
    for _ in publications {
        slots.push(backlog.slot().await);
    }
    let others = Others::watch(lab.family);
    let start = Instant::now();
    let relay = |(slot, name): (&String, &&str)| backlog.relay(slot).env("WALPOST_PUBLICATION", name).spawn();
    let mut relays: Vec<Walpost> = slots.iter().zip(publications).map(relay).collect();
    for slot in &slots {
        while !backlog.confirmed(slot).await {
            relays.iter_mut().for_each(|relay| alive(relay, start));
            sleep(LOOK_EVERY).await;
        }
    }
    let mut run = Run { done: start.elapsed().as_secs_f64(), ..Run::default() };
    for (relay, slot) in relays.iter().zip(&slots) {
        run.relays_cpu += proc::cpu(relay.id()).expect("it runs").own;
        run.peak += proc::peak(relay.id()).expect("it runs");
        let walsender = backlog.walsender(slot).await.expect("it is served");
        run.walsenders_cpu += proc::cpu(walsender).expect("it runs").own;
    }
    // Of the second relay the start counts as others' work, which is next to nothing.
    run.others = others.cores(relays.first().map(Walpost::id));
    for relay in relays {
        stop(relay).await;
    }
    for slot in &slots {
        backlog.drop_slot(slot).await;
    }
    backlog.topic.check_keys(&from, rows, position).assert_flawless();
    run
}
