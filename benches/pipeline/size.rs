//! How large the relay gets where others grow: it is measured once, since its size is bounded by what it is given.

use std::time::{Duration, Instant};

use tokio::time::sleep;

use crate::backlog::Backlog;
use crate::drain::{self, alive, stop};
use crate::lab::Lab;
use crate::proc;
use crate::support::PATIENCE;
use crate::table::{grouped, number};
use crate::topic::position;
use crate::workloads::{Stress, Workload};

/// How long the broker is away.
const AWAY: Duration = Duration::from_secs(60);
/// Rows come in this many steps a second.
const STEPS: u32 = 20;
/// Rows per second meanwhile, and for a while before and after.
const RATE: u32 = 5000;
const AROUND: Duration = Duration::from_secs(5);

pub(crate) async fn measure(lab: &Lab, workload: &Workload, stress: Stress) {
    match stress {
        Stress::Drain => drained(lab, workload).await,
        Stress::BrokerAway => away(lab, workload).await,
    }
}

async fn drained(lab: &Lab, workload: &Workload) {
    let backlog = Backlog::full(lab, workload).await;
    let run = drain::relay(lab, &backlog, workload.rows).await;
    lab.broker.delete_topic(&backlog.topic.name).await;
    let rate = f64::from(workload.rows) / run.done;
    let told = [
        ("peak resident MB", number(run.peak / 1e6, 1)),
        ("resident MB when all is confirmed", number(run.resident / 1e6, 1)),
        ("rows/s, all confirmed", number(rate, 0)),
        ("MB/s of payloads", number(rate * f64::from(workload.payload) / 1e6, 1)),
    ];
    report(&format!("{}: {}", workload.name, workload.describe()), &told);
}

/// The broker is stopped in its tracks, so that connections stay and nothing is answered.
async fn away(lab: &Lab, workload: &Workload) {
    let backlog = Backlog::empty(lab, workload).await;
    let (slot, from) = (backlog.slot().await, backlog.topic.ends());
    let mut relay = backlog.relay(&slot).spawn();
    relay.wait_for_log("streaming", PATIENCE).await;
    let start = Instant::now();
    let (mut rows, mut before, mut during, mut is_away) = (0, 0.0, 0.0_f64, false);
    while start.elapsed() < AROUND + AWAY + AROUND {
        let away = (AROUND..AROUND + AWAY).contains(&start.elapsed());
        if away != is_away {
            is_away = away;
            if away { lab.broker.pause() } else { lab.broker.resume() }
        }
        backlog.insert(workload, rows, RATE / STEPS).await;
        rows += RATE / STEPS;
        alive(&mut relay, start);
        let resident = proc::resident(relay.id()).expect("it runs");
        if start.elapsed() < AROUND {
            before = resident
        } else {
            during = during.max(resident)
        }
        let due = start + Duration::from_secs_f64(f64::from(rows) / f64::from(RATE));
        sleep(due.saturating_duration_since(Instant::now())).await;
    }
    let back = Instant::now();
    while backlog.topic.grown(&from) < u64::from(rows) {
        alive(&mut relay, start);
        sleep(Duration::from_millis(50)).await;
    }
    let (caught_up, peak) = (back.elapsed(), proc::peak(relay.id()).expect("it runs"));
    stop(relay).await;
    backlog.drop_slot(&slot).await;
    let verdict = backlog.topic.check(&from, rows, position);
    assert!(
        verdict.missing == 0 && verdict.reordered == 0,
        "the topic is not what was committed: {verdict:?}"
    );
    lab.broker.delete_topic(&backlog.topic.name).await;
    let told = [
        ("resident MB before", number(before / 1e6, 1)),
        ("largest resident MB meanwhile and after", number(during / 1e6, 1)),
        ("peak resident MB", number(peak / 1e6, 1)),
        ("until it has caught up, s", number(AROUND.as_secs_f64() + caught_up.as_secs_f64(), 1)),
        ("rows that came twice", grouped(verdict.repeated)),
    ];
    report(
        &format!(
            "{}: {} rows/s, the broker frozen for {} s",
            workload.name,
            grouped(RATE.into()),
            AWAY.as_secs()
        ),
        &told,
    );
}

fn report(title: &str, told: &[(&str, String)]) {
    println!("\n### {title}\n\n| Walpost | |\n| --- | ---: |");
    for (what, value) in told {
        println!("| {what} | {value} |");
    }
}
