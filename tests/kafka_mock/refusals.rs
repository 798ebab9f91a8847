//! Records that brokers or the publisher itself refuse for good.

use rdkafka::types::{RDKafkaApiKey, RDKafkaRespErr};
use walpost::{Offer, OutboxPublisher, Receipt, Record, Ticket};

use crate::harness::{Bench, cluster, in_time, numbers, value};

/// Returns the receipts since, and the numbers that are in the topic.
async fn refuse(error: RDKafkaRespErr, pipelined: u32) -> (Vec<Receipt>, Vec<u32>) {
    let cluster = cluster(1, &[("t", 1)]);
    let mut bench = Bench::open(&cluster, &[("batch.num.messages", "2")]);
    bench.publish_numbers("t", 0..10).await;
    bench.settle_well().await;
    cluster.request_errors(RDKafkaApiKey::Produce, &[error]);

    for number in 10..10 + pipelined {
        let record = number.to_string();
        let offer = bench.publisher.publish(Ticket(u64::from(number)), &value("t", record.as_bytes()));
        // The refusal may be known before the last one is offered.
        if offer.expect("taken or full") == Offer::Full {
            break;
        }
        bench.next += 1;
    }
    let mut receipts = Vec::new();
    while receipts.len() < usize::try_from(bench.next).expect("few") - 10 {
        in_time(bench.publisher.receipts(&mut receipts)).await.expect("receipts");
    }
    let refused = bench.publisher.publish(Ticket(99), &value("t", b"99")).expect_err("nothing more is taken");
    assert!(refused.is_transient() && refused.to_string().contains("earlier record failed"), "{refused}");
    // Nobody sends any more when this is over.
    bench.publisher.close().await;
    (receipts, numbers(&cluster, "t"))
}

#[tokio::test(flavor = "multi_thread")]
async fn a_refused_record_stops_the_line_and_says_why() {
    use RDKafkaRespErr::*;
    for (error, text) in [
        (RD_KAFKA_RESP_ERR_TOPIC_AUTHORIZATION_FAILED, "authorization"),
        (RD_KAFKA_RESP_ERR_MSG_SIZE_TOO_LARGE, "too large"),
        (RD_KAFKA_RESP_ERR_INVALID_RECORD, "valid"),
    ] {
        for pipelined in [1, 10] {
            let (receipts, arrived) = refuse(error, pipelined).await;
            let reason = receipts[0].result.as_ref().expect_err("it failed");
            assert_eq!(receipts[0].ticket, Ticket(10), "the culprit comes first");
            assert!(reason.is_message() && reason.advice().is_some(), "{reason:?}");
            assert!(reason.chain().contains(text), "{reason:?}");
            assert!(receipts.iter().all(|receipt| receipt.result.is_err()), "{receipts:?}");
            assert!(arrived.iter().copied().take(10).eq(0..10), "{arrived:?}");
            // What was on the wire already lands on the mock; a real broker sees the gap in the sequence.
            assert!(!arrived.contains(&10) && !arrived.contains(&99), "{arrived:?}");
            assert!(pipelined > 1 || arrived.len() == 10, "{arrived:?}");
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_lost_producer_identity_asks_for_a_new_producer() {
    for error in [
        RDKafkaRespErr::RD_KAFKA_RESP_ERR_OUT_OF_ORDER_SEQUENCE_NUMBER,
        RDKafkaRespErr::RD_KAFKA_RESP_ERR_INVALID_PRODUCER_EPOCH,
    ] {
        let cluster = cluster(1, &[("t", 1)]);
        let mut bench = Bench::open(&cluster, &[("max.in.flight", "1"), ("batch.num.messages", "2")]);
        bench.publish_numbers("t", 0..1).await;
        bench.settle_well().await;
        cluster.request_errors(RDKafkaApiKey::Produce, &[error]);
        for number in ["1", "2", "3", "4"] {
            // The first may have failed before the last is offered.
            if let Err(error) = bench.offer(&value("t", number.as_bytes())).await {
                assert!(error.is_transient(), "{error:?}");
                break;
            }
        }
        for receipt in bench.settle().await {
            // Either it is retried under a new identity, or the producer has to go; never a message's fault.
            assert!(
                receipt.result.as_ref().err().is_none_or(walpost::OutboxError::is_transient),
                "{receipt:?}"
            );
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_producer_that_may_not_write_at_all_is_a_definite_error() {
    use RDKafkaRespErr::RD_KAFKA_RESP_ERR_CLUSTER_AUTHORIZATION_FAILED as REFUSED;
    let cluster = cluster(1, &[("t", 1)]);
    cluster.request_errors(RDKafkaApiKey::InitProducerId, &[REFUSED; 5]);
    let mut bench = Bench::open(&cluster, &[]);
    bench.publish_numbers("t", 0..1).await;
    for receipt in bench.settle().await {
        let error = receipt.result.expect_err("refused");
        assert!(!error.is_transient() && !error.is_message(), "{error:?}");
        assert!(error.advice().is_some_and(|advice| advice.contains("IDEMPOTENT_WRITE")), "{error:?}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn what_can_be_refused_on_the_spot_is() {
    let cluster = cluster(1, &[("t", 1)]);
    let large = vec![b'x'; 1_100_000];
    let long = "t".repeat(250);
    let negative = Record { partition: Some(-1), ..value("t", b"x") };
    for (record, text) in [
        (value("t", &large), "1100000 bytes"),
        (value("", b"x"), "InvalidTopic"),
        (value("a topic", b"x"), "InvalidTopic"),
        (value("nul\0", b"x"), "InvalidTopic"),
        (value(&long, b"x"), "InvalidTopic"),
        (negative, "UnknownPartition"),
    ] {
        let mut bench = Bench::open(&cluster, &[]);
        bench.publish_numbers("t", 0..1).await;
        bench.settle_well().await;
        let error = bench.publisher.publish(Ticket(1), &record).expect_err("refused");
        assert!(error.is_message() && error.advice().is_some(), "{error:?}");
        let advice = error.advice().unwrap_or_default();
        assert!(error.chain().contains(text) || advice.contains(text), "{error:?}");
        bench.publish_numbers("t", 1..2).await;
        bench.settle_well().await;
    }
    let expected = [0, 1].repeat(6);
    assert_eq!(
        numbers(&cluster, "t"),
        expected,
        "nothing was sent of it, and it keeps nothing from the next one"
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn a_missing_topic_or_partition_is_the_messages_fault() {
    use RDKafkaRespErr::*;
    let cluster = cluster(1, &[("t", 1)]);
    for (name, error) in [
        ("missing", RD_KAFKA_RESP_ERR_UNKNOWN_TOPIC_OR_PART),
        ("secret", RD_KAFKA_RESP_ERR_TOPIC_AUTHORIZATION_FAILED),
    ] {
        cluster.topic_error(name, error).expect("an error");
    }
    for record in
        [value("missing", b"x"), value("secret", b"x"), Record { partition: Some(9), ..value("t", b"x") }]
    {
        let mut bench = Bench::open(&cluster, &[("topic.metadata.propagation.max.ms", "200")]);
        bench.publish(&record).await;
        let receipt = bench.settle().await.remove(0);
        let error = receipt.result.expect_err("refused");
        assert!(error.is_message() && error.advice().is_some(), "{error:?}");
    }
}
