use super::*;

fn settings(properties: &[(&str, &str)]) -> KafkaSettings {
    properties.iter().fold(KafkaSettings::new("broker:9092"), |settings, (name, value)| {
        settings.with_property(*name, *value)
    })
}

fn value(properties: &[(&str, &str)], name: &str) -> Option<String> {
    let prepared = settings(properties).prepare().expect("valid settings");
    prepared.config.get(name).map(str::to_owned)
}

#[test]
fn defaults_keep_the_promises() {
    for (name, expected) in [
        ("bootstrap.servers", "broker:9092"),
        ("client.id", "walpost"),
        ("enable.idempotence", "true"),
        ("enable.gapless.guarantee", "true"),
        ("acks", "all"),
        ("message.timeout.ms", "0"),
        ("partitioner", "murmur2_random"),
        ("socket.keepalive.enable", "true"),
        ("linger.ms", "1"),
        ("enable.metrics.push", "false"),
    ] {
        assert_eq!(value(&[], name).as_deref(), Some(expected), "{name}");
    }
}

#[test]
fn properties_pass_as_they_are_and_aliases_meet() {
    for (given, name, expected) in [
        (vec![("client.id", "mine")], "client.id", "mine"),
        (vec![("partitioner", "consistent_random")], "partitioner", "consistent_random"),
        (vec![("queue.buffering.max.ms", "20")], "linger.ms", "20"),
        (vec![("linger.ms", "20"), ("queue.buffering.max.ms", "0.5")], "linger.ms", "0.5"),
        (vec![("compression.codec", "zstd")], "compression.type", "zstd"),
        (vec![("acks", "-1")], "acks", "-1"),
        (vec![("security.protocol", "ssl")], "security.protocol", "ssl"),
        (vec![("sasl.mechanism", "SCRAM-SHA-512")], "sasl.mechanisms", "SCRAM-SHA-512"),
    ] {
        assert_eq!(value(&given, name).as_deref(), Some(expected), "{given:?}");
    }
    assert_eq!(value(&[("queue.buffering.max.ms", "20")], "queue.buffering.max.ms"), None);
}

#[test]
fn the_window_is_ours_and_the_queue_behind_it_wider() {
    for (given, records, bytes, messages, kbytes) in [
        (vec![], 30_000, 16 << 20, "60002", "34722"),
        (vec![(MAX_MESSAGES, "5"), (MAX_KBYTES, "1")], 5, 1024, "12", "1956"),
        (vec![(MAX_MESSAGES, "0"), (MAX_RECORD, "10000000")], 0, 16 << 20, "0", "52300"),
        (vec![(MAX_KBYTES, "2147483647")], 30_000, 2_147_483_647 * 1024, "60002", "2147483647"),
    ] {
        let prepared = settings(&given).prepare().expect("valid settings");
        assert_eq!((prepared.limits.records, prepared.limits.bytes), (records, bytes), "{given:?}");
        assert_eq!(prepared.config.get(MAX_MESSAGES), Some(messages), "{given:?}");
        assert_eq!(prepared.config.get(MAX_KBYTES), Some(kbytes), "{given:?}");
    }
}

#[test]
fn wrong_settings_are_named() {
    for (name, value) in [
        ("no.such.property", "1"),
        ("linger.ms", "soon"),
        ("linger.ms", "900001"),
        ("compression.type", "rar"),
        ("security.protocol", "carrier-pigeon"),
        ("dr_cb", "1"),
        (MAX_MESSAGES, "-1"),
        (MAX_KBYTES, "0"),
        (MAX_KBYTES, "1e3"),
        ("acks", "1"),
        ("sasl.mechanism\0", "PLAIN"),
    ] {
        let error = settings(&[(name, value)]).validate().expect_err(name);
        assert!(error.is_usage() && error.advice().is_some(), "{name}={value}: {error:?}");
        assert!(name.contains('\0') || error.to_string().contains(name), "{name}={value}: {error}");
    }
    for brokers in ["", " ", ",", " , "] {
        assert!(KafkaSettings::new(brokers).validate().expect_err("no broker").is_usage());
    }
}

#[test]
fn secrets_stay_secret() {
    const SECRET: &str = "hunter2-and-more";
    for name in ["sasl.password", "ssl.key.password", "ssl.key.pem", "no.such.secret"] {
        let settings = settings(&[(name, SECRET)]);
        assert!(!format!("{settings:?}").contains(SECRET), "{name}");
        if let Err(error) = settings.validate() {
            assert!(!format!("{error:?}").contains(SECRET), "{error:?}");
        }
        let creation = KafkaError::ClientCreation(format!("bad {SECRET} in {name}: at {}", &SECRET[3..]));
        let error = format!("{:?}", settings.refused(creation));
        assert!(error.contains(name) && !error.contains(&SECRET[3..]), "{error}");
    }
}

#[test]
fn the_log_level_follows_the_properties() {
    for (given, expected) in [
        (vec![], 6),
        (vec![("log_level", "3")], 3),
        (vec![("debug", "broker,eos")], 7),
        (vec![("debug", "broker"), ("log_level", "6")], 6),
    ] {
        let prepared = settings(&given).prepare().expect("valid settings");
        assert_eq!(prepared.config.log_level as i32, expected, "{given:?}");
    }
}
