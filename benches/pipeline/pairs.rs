//! The reader and the relay in turn, and Debezium when asked for, several times, so that no drift of the machine favours
//! one of them.

use crate::backlog::Backlog;
use crate::debezium;
use crate::drain::{self, Drained};
use crate::lab::Lab;
use crate::options::Options;
use crate::proc::DISTURBED;
use crate::table::{Table, grouped, median, number};
use crate::workloads::{ALL, Workload};

/// Rows of a backlog.
const WARM_UP: u32 = 100_000;

/// What is left of a workload at the end.
pub(crate) struct Summary {
    name: &'static str,
    relay: f64,
    reader: f64,
    ratio: f64,
    peak: f64,
    debezium: Option<debezium::Summary>,
    disturbed: usize,
}

/// A broker that has just started is slow for its first records, and nobody's is that young. Not measured.
pub(crate) async fn warm_up(lab: &Lab) {
    let workload = Workload { rows: WARM_UP, ..ALL[0] };
    let backlog = Backlog::full(lab, &workload).await;
    for _ in 0..3 {
        drain::relay(lab, &backlog, workload.rows).await;
    }
    lab.broker.delete_topic(&backlog.topic.name).await;
    println!(
        "Before the first figure the relay has drained {} rows three times, unmeasured.",
        grouped(WARM_UP.into())
    );
}

pub(crate) async fn measure(lab: &Lab, options: &Options, workload: &Workload) -> Option<Summary> {
    let backlog = Backlog::full(lab, workload).await;
    let (mut readers, mut relays, mut debeziums) = (Vec::new(), Vec::new(), Vec::new());
    for pair in 0..options.pairs {
        // Whoever comes second finds the log in the kernel's cache as the first one left it.
        if pair % 2 == 0 {
            readers.push(drain::reader(lab, &backlog).await);
            relays.push(drain::relay(lab, &backlog, workload.rows).await);
        }
        if options.debezium {
            debeziums.push(debezium::drain(lab, &backlog, workload.rows).await);
        }
        if pair % 2 == 1 {
            relays.push(drain::relay(lab, &backlog, workload.rows).await);
            readers.push(drain::reader(lab, &backlog).await);
        }
    }
    lab.broker.delete_topic(&backlog.topic.name).await;
    Some(report(workload, &readers, &relays, &debeziums))
}

fn report(workload: &Workload, readers: &[Drained], relays: &[Drained], debeziums: &[Drained]) -> Summary {
    let rows = f64::from(workload.rows);
    let rate = |run: &Drained| rows / run.done;
    let each = |runs: &[Drained], value: &dyn Fn(&Drained) -> f64| runs.iter().map(value).collect::<Vec<_>>();
    let per_million = |seconds: f64| seconds * 1e6 / rows;
    let title = format!("{}: {}", workload.name, workload.describe());
    let mut table = Table::new(title, relays.len());
    table.row("Walpost, rows/s, all in the topic", each(relays, &|run| rows / run.published), 0);
    table.row("**Walpost, rows/s, all confirmed**", each(relays, &rate), 0);
    table.row("**pg_recvlogical, rows/s**", each(readers, &rate), 0);
    let ratios: Vec<f64> =
        relays.iter().zip(readers).map(|(relay, reader)| reader.done / relay.done).collect();
    table.row("**Walpost / pg_recvlogical, of each pair**", ratios.clone(), 2);
    let payload = f64::from(workload.payload) / 1e6;
    table.row("Walpost, MB/s of payloads", each(relays, &|run| rate(run) * payload), 1);
    table.row("pg_recvlogical, MB/s of payloads", each(readers, &|run| rate(run) * payload), 1);
    table.row("Walpost, first record in the topic, s", each(relays, &|run| run.first), 3);
    for (name, runs, value) in [
        ("Walpost", relays, (|run| run.reader_cpu) as fn(&Drained) -> f64),
        ("walsender for Walpost", relays, |run| run.walsender_cpu),
        ("broker", relays, |run| run.broker_cpu),
        ("pg_recvlogical", readers, |run| run.reader_cpu),
        ("walsender for pg_recvlogical", readers, |run| run.walsender_cpu),
    ] {
        let name = format!("CPU s per million rows, {name}");
        table.row(&name, each(runs, &|run| per_million(value(run))), 2);
    }
    table.row("Walpost, peak resident MB", each(relays, &|run| run.peak / 1e6), 1);
    table.row("pg_recvlogical, peak resident MB", each(readers, &|run| run.peak / 1e6), 1);
    table.others("Walpost's run", each(relays, &|run| run.others));
    table.others("pg_recvlogical's run", each(readers, &|run| run.others));
    let debezium = debezium::report(&mut table, rows, relays, debeziums);
    table.print();
    println!("\nEach run of Walpost was read back: every row once, in order within its partition.");
    if debezium.is_some() {
        println!("So was each run of Debezium, whose records tell their order by the rows' numbers alone.");
    }
    Summary {
        name: workload.name,
        relay: median(&each(relays, &rate)),
        reader: median(&each(readers, &rate)),
        ratio: median(&ratios),
        peak: median(&each(relays, &|run| run.peak / 1e6)),
        debezium,
        disturbed: relays.iter().chain(readers).chain(debeziums).filter(|run| run.others > DISTURBED).count(),
    }
}

/// The medians of all workloads under each other.
pub(crate) fn print_summary(summaries: Vec<Summary>) {
    if summaries.len() < 2 {
        return;
    }
    println!("\n### Medians, from process start\n");
    let mut heads = vec![
        "Walpost into Kafka, confirmed, rows/s",
        "pg_recvlogical to /dev/null, rows/s",
        "ratio",
        "peak MB",
    ];
    if summaries.iter().any(|it| it.debezium.is_some()) {
        heads.extend(debezium::HEADS);
    }
    heads.push("disturbed runs");
    println!("| workload | {} |", heads.join(" | "));
    println!("| --- |{}", " ---: |".repeat(heads.len()));
    for it in summaries {
        let mut cells =
            vec![number(it.relay, 0), number(it.reader, 0), number(it.ratio, 2), number(it.peak, 1)];
        cells.extend(it.debezium.into_iter().flat_map(|it| it.cells()));
        cells.push(it.disturbed.to_string());
        println!("| {} | {} |", it.name, cells.join(" | "));
    }
}
