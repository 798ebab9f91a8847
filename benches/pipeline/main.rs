//! Figures that can be believed: PostgreSQL, Apache Kafka and the relay on this machine, beside a reader that does
//! nothing with what it reads, and beside Debezium Server when asked for, in turn, on the same backlog.
//!
//! `make bench` prints Markdown tables; `make bench ARGS="--list"` names the workloads. No figure stands without
//! all runs that it is the median of, without a check of the topic, and without a word on what else used the machine.

// A run that loses, repeats or reorders a row ends the whole with these.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

mod backlog;
mod crash;
mod debezium;
mod drain;
mod floor;
mod idle;
mod lab;
mod latency;
mod options;
mod pairs;
mod proc;
mod size;
mod slots;
#[path = "../../tests/it/support/mod.rs"]
#[allow(unused_imports, reason = "tools of the tests that are of no use here")]
mod support;
mod table;
mod topic;
mod workloads;

use clap::Parser as _;

use lab::Lab;
use options::Options;
use workloads::{ALL, Kind, Workload};

fn main() {
    let options = Options::parse();
    if options.list {
        for workload in ALL {
            println!("{:<14} {}", workload.name, workload.about);
        }
        return;
    }
    let chosen = options.chosen().unwrap_or_else(|error| error.exit());
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build().unwrap();
    runtime.block_on(run(&options, &chosen));
}

async fn run(options: &Options, chosen: &[Workload]) {
    let lab = Lab::start(options).await;
    lab.print_facts(options.debezium).await;
    pairs::warm_up(&lab).await;
    let mut summary = Vec::new();
    for workload in chosen {
        match workload.kind {
            Kind::Drain => summary.extend(pairs::measure(&lab, options, workload).await),
            Kind::Crash => crash::measure(&lab, options, workload).await,
            Kind::Latency { rate } => latency::measure(&lab, options, workload, rate).await,
            Kind::Idle => idle::measure(&lab).await,
            Kind::Size(stress) => size::measure(&lab, workload, stress).await,
            Kind::Slots => slots::measure(&lab, options, workload).await,
        }
    }
    pairs::print_summary(summary);
}
