//! Brokers that go away, come back, move or say "later".

use std::sync::Arc;
use std::time::{Duration, Instant};

use rdkafka::types::{RDKafkaApiKey, RDKafkaRespErr};
use walpost::kafka::{KafkaSettings, probe};

use crate::harness::{ALL, Bench, PATIENCE, cluster, eventually, numbers};

#[tokio::test(flavor = "multi_thread")]
async fn an_outage_loses_nothing_keeps_order_and_shows() {
    let cluster = cluster(1, &[("t", 1)]);
    let mut bench = Bench::open(&cluster, &[]);
    bench.publish_numbers("t", 0..50).await;
    cluster.broker_down(ALL).expect("down");
    bench.publish_numbers("t", 50..100).await;
    eventually(|| bench.vitals.broker_fault().is_some()).await;
    bench.publish_numbers("t", 100..150).await;
    cluster.broker_up(ALL).expect("up");
    bench.settle_well().await;
    eventually(|| bench.vitals.broker_fault().is_none()).await;
    assert!(numbers(&cluster, "t").into_iter().eq(0..150));
}

#[tokio::test(flavor = "multi_thread")]
async fn an_idle_publisher_notices_an_outage_and_its_end() {
    let cluster = cluster(2, &[("t", 1)]);
    let mut bench = Bench::open(&cluster, &[]);
    bench.publish_numbers("t", 0..1).await;
    bench.settle_well().await;
    assert!(bench.vitals.broker_fault().is_none());
    for _ in 0..2 {
        cluster.broker_down(ALL).expect("down");
        eventually(|| bench.vitals.broker_fault().is_some()).await;
        cluster.broker_up(ALL).expect("up");
        eventually(|| bench.vitals.broker_fault().is_none()).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn one_broker_of_three_is_no_fault_of_all() {
    let cluster = cluster(3, &[("t", 1)]);
    cluster.partition_leader("t", 0, Some(1)).expect("a leader");
    let mut bench = Bench::open(&cluster, &[]);
    bench.publish_numbers("t", 0..10).await;
    bench.settle_well().await;
    cluster.broker_down(1).expect("down");
    bench.publish_numbers("t", 10..20).await;
    cluster.partition_leader("t", 0, Some(2)).expect("a leader");
    bench.settle_well().await;
    assert!(bench.vitals.broker_fault().is_none());
    assert!(numbers(&cluster, "t").into_iter().eq(0..20));
}

/// One request at a time, since the mock lets later ones pass a failed one, which no real broker does.
#[tokio::test(flavor = "multi_thread")]
async fn retriable_refusals_are_retried_in_order() {
    use RDKafkaRespErr::*;
    let cluster = cluster(1, &[("t", 1)]);
    let mut bench = Bench::open(&cluster, &[("max.in.flight", "1"), ("batch.num.messages", "7")]);
    bench.publish_numbers("t", 0..10).await;
    cluster.request_errors(
        RDKafkaApiKey::Produce,
        &[
            RD_KAFKA_RESP_ERR_NOT_LEADER_FOR_PARTITION,
            RD_KAFKA_RESP_ERR_NOT_ENOUGH_REPLICAS,
            RD_KAFKA_RESP_ERR_REQUEST_TIMED_OUT,
            RD_KAFKA_RESP_ERR_KAFKA_STORAGE_ERROR,
            RD_KAFKA_RESP_ERR_LEADER_NOT_AVAILABLE,
            RD_KAFKA_RESP_ERR__TRANSPORT,
        ],
    );
    bench.publish_numbers("t", 10..100).await;
    bench.settle_well().await;
    assert!(numbers(&cluster, "t").into_iter().eq(0..100));
}

/// Publishes ten good records, then `pipelined` ones of which the first is refused with `error`.
///
#[tokio::test(flavor = "multi_thread")]
async fn leaving_with_the_broker_down_takes_no_time() {
    let cluster = cluster(1, &[("t", 1)]);
    let mut bench = Bench::open(&cluster, &[]);
    bench.publish_numbers("t", 0..10).await;
    bench.settle_well().await;
    cluster.broker_down(ALL).expect("down");
    bench.publish_numbers("t", 10..1000).await;
    eventually(|| bench.vitals.broker_fault().is_some()).await;

    let (other, vitals) = (Bench::open(&cluster, &[]), Arc::clone(&bench.vitals));
    let start = Instant::now();
    drop(other.publisher);
    assert!(start.elapsed() < Duration::from_millis(50), "dropping took {:?}", start.elapsed());
    bench.publisher.close().await;
    assert!(start.elapsed() < Duration::from_secs(3), "closing took {:?}", start.elapsed());
    assert!(vitals.broker_fault().is_none(), "nobody looks any more");
}

#[tokio::test(flavor = "multi_thread")]
async fn brokers_may_come_later() {
    let cluster = cluster(1, &[("t", 1)]);
    cluster.broker_down(ALL).expect("down");
    let mut bench = Bench::open(&cluster, &[]);
    bench.publish_numbers("t", 0..1).await;
    eventually(|| bench.vitals.broker_fault().is_some()).await;
    let (_, why) = bench.vitals.broker_fault().expect("a fault");
    assert!(why.contains("127.0.0.1"), "{why}");
    cluster.broker_up(ALL).expect("up");
    bench.publish_numbers("t", 1..10).await;
    bench.settle_well().await;
    assert!(numbers(&cluster, "t").into_iter().eq(0..10));
}

/// librdkafka may miss its moment to ask for a producer id, and waits half a second for the next.
#[tokio::test(flavor = "multi_thread")]
async fn the_first_record_does_not_wait_for_a_producer_id() {
    let cluster = cluster(1, &[("t", 12)]);
    let mut times = Vec::new();
    for _ in 0..25 {
        let start = Instant::now();
        let mut bench = Bench::open(&cluster, &[]);
        bench.publish_numbers("t", 0..1).await;
        bench.settle_well().await;
        times.push(start.elapsed());
        bench.publisher.close().await;
    }
    assert!(times.iter().all(|time| *time < Duration::from_millis(400)), "{times:.2?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_probe_tells_who_answers_or_what_to_check() {
    let cluster = cluster(3, &[]);
    let report = probe(&KafkaSettings::new(cluster.bootstrap_servers()), PATIENCE).await.expect("an answer");
    assert_eq!(report.brokers.len(), 3);
    assert!(report.brokers.iter().all(|broker| cluster.bootstrap_servers().contains(broker)), "{report:?}");
    assert!(report.cluster_id.is_some());

    cluster.broker_down(ALL).expect("down");
    let settings = KafkaSettings::new(cluster.bootstrap_servers());
    let error = probe(&settings, Duration::from_millis(300)).await.expect_err("nobody is there");
    assert!(
        error.is_transient() && error.advice().is_some_and(|advice| advice.contains("--brokers")),
        "{error:?}"
    );
    assert!(error.chain().contains("127.0.0.1"), "{}", error.chain());

    let wrong = settings.with_property("no.such", "1");
    assert!(probe(&wrong, PATIENCE).await.expect_err("wrong").is_usage());
}
