//! One run: a reader of the whole backlog, from its start to the end.

use std::process::Stdio;
use std::time::{Duration, Instant};

use tokio::time::sleep;

use crate::backlog::Backlog;
use crate::lab::Lab;
use crate::proc::{self, Others};
use crate::support::guard::Process;
use crate::support::{PATIENCE, Walpost};
use crate::topic::position;

/// How often it is looked whether something has happened: what a time may be too long by.
const LOOK_EVERY: Duration = Duration::from_millis(5);
/// A run that takes longer is stuck.
pub(crate) const LONGEST: Duration = Duration::from_secs(600);

/// Seconds since the start of the process, CPU seconds, bytes.
#[derive(Clone, Copy, Default)]
pub(crate) struct Drained {
    /// Until the first record was in the topic.
    pub(crate) first: f64,
    /// Until all were.
    pub(crate) published: f64,
    /// Until the slot had confirmed all; for the reader, until it had ended.
    pub(crate) done: f64,
    pub(crate) reader_cpu: f64,
    pub(crate) walsender_cpu: f64,
    pub(crate) broker_cpu: f64,
    pub(crate) peak: f64,
    /// When all was confirmed; of the relay only.
    pub(crate) resident: f64,
    /// Cores that others used.
    pub(crate) others: f64,
}

/// The relay, into the topic. What it has published is checked.
pub(crate) async fn relay(lab: &Lab, backlog: &Backlog<'_>, rows: u32) -> Drained {
    let (slot, from) = (backlog.slot().await, backlog.topic.ends());
    let broker_before = broker_cpu(lab);
    let others = Others::watch(lab.family);
    let start = Instant::now();
    let mut relay = backlog.relay(&slot).spawn();
    let mut run = arrival(backlog, &from, rows, start, || alive(&mut relay, start)).await;
    while !backlog.confirmed(&slot).await {
        alive(&mut relay, start);
        sleep(LOOK_EVERY).await;
    }
    run.done = start.elapsed().as_secs_f64();
    run.others = others.cores(Some(relay.id()));
    run.broker_cpu = broker_cpu(lab) - broker_before;
    run.reader_cpu = proc::cpu(relay.id()).expect("it runs").own;
    run.peak = proc::peak(relay.id()).expect("it runs");
    run.resident = proc::resident(relay.id()).expect("it runs");
    let walsender = backlog.walsender(&slot).await.expect("it is served");
    run.walsender_cpu = proc::cpu(walsender).expect("it runs").own;
    stop(relay).await;
    backlog.drop_slot(&slot).await;
    backlog.topic.check(&from, rows, position).assert_flawless();
    run
}

/// Until all rows are in the topic: when the first one was, and the last. Between two looks `check` may panic.
pub(crate) async fn arrival(
    backlog: &Backlog<'_>,
    from: &[i64],
    rows: u32,
    start: Instant,
    mut check: impl FnMut(),
) -> Drained {
    let mut run = Drained::default();
    loop {
        let count = backlog.topic.grown(from);
        if count > 0 && run.first == 0.0 {
            run.first = start.elapsed().as_secs_f64();
        }
        if count >= rows.into() {
            run.published = start.elapsed().as_secs_f64();
            return run;
        }
        check();
        sleep(LOOK_EVERY).await;
    }
}

/// pg_recvlogical, into nothing.
pub(crate) async fn reader(lab: &Lab, backlog: &Backlog<'_>) -> Drained {
    let slot = backlog.slot().await;
    let (broker_before, reaped_before) = (broker_cpu(lab), proc::reaped());
    let mut command = backlog.reader(&slot);
    command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::inherit());
    let others = Others::watch(lab.family);
    let start = Instant::now();
    let mut process = Process::spawn(&mut command, "KILL");
    let (mut run, mut walsender) = (Drained::default(), None);
    let status = loop {
        if let Some(status) = process.exited() {
            break status;
        }
        assert!(start.elapsed() < LONGEST, "pg_recvlogical has not ended");
        run.peak = proc::peak(process.id()).unwrap_or(run.peak);
        match walsender {
            None => walsender = backlog.walsender(&slot).await,
            Some(pid) => run.walsender_cpu = proc::cpu(pid).map_or(run.walsender_cpu, |it| it.own),
        }
        sleep(LOOK_EVERY).await;
    };
    run.done = start.elapsed().as_secs_f64();
    assert!(status.success(), "pg_recvlogical: {status}");
    run.others = others.cores(None);
    run.broker_cpu = broker_cpu(lab) - broker_before;
    run.reader_cpu = proc::reaped() - reaped_before;
    backlog.drop_slot(&slot).await;
    run
}

pub(crate) fn broker_cpu(lab: &Lab) -> f64 {
    proc::cpu(lab.family.broker).expect("the broker runs").own
}

/// Panics when it is not worth waiting for.
pub(crate) fn alive(relay: &mut Walpost, start: Instant) {
    if let Some(status) = relay.exited() {
        panic!("the relay has ended: {status}");
    }
    assert!(start.elapsed() < LONGEST, "the relay is not done after {LONGEST:?}");
}

pub(crate) async fn stop(mut relay: Walpost) {
    relay.terminate();
    let status = relay.wait(PATIENCE).await;
    assert!(status.success(), "the relay: {status}\n{}", relay.log());
}
