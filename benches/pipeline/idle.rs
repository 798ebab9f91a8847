//! A relay that has nothing to do.

use std::time::Duration;

use tokio::time::sleep;

use crate::backlog::Backlog;
use crate::drain::stop;
use crate::lab::Lab;
use crate::proc;
use crate::support::PATIENCE;
use crate::table::number;
use crate::workloads::ALL;

/// Until what a start needs has been given back.
const SETTLES: Duration = Duration::from_secs(5);
const WATCHED: Duration = Duration::from_secs(10);

pub(crate) async fn measure(lab: &Lab) {
    let backlog = Backlog::empty(lab, &ALL[0]).await;
    let slot = backlog.slot().await;
    let relay = backlog.relay(&slot).spawn();
    relay.wait_for_log("streaming", PATIENCE).await;
    sleep(SETTLES).await;
    let cpu = || proc::cpu(relay.id()).expect("it runs").own;
    let before = cpu();
    sleep(WATCHED).await;
    let share = (cpu() - before) / WATCHED.as_secs_f64();
    let [resident, peak] = [proc::resident(relay.id()), proc::peak(relay.id())];
    println!("\n### idle: an empty outbox, {} s\n", WATCHED.as_secs());
    println!("| Walpost | |\n| --- | ---: |");
    println!("| resident MB | {} |", number(resident.expect("it runs") / 1e6, 1));
    println!("| peak resident MB | {} |", number(peak.expect("it runs") / 1e6, 1));
    println!("| CPU, % of a core | {} |", number(share * 100.0, 1));
    stop(relay).await;
    backlog.drop_slot(&slot).await;
    lab.broker.delete_topic(&backlog.topic.name).await;
}
