//! The demo's broker: librdkafka's mock cluster in this process, or a real one.

use std::time::Duration;

use rdkafka::admin::{AdminClient, AdminOptions, NewTopic, TopicReplication};
use rdkafka::client::DefaultClientContext;
use rdkafka::config::ClientConfig;
use rdkafka::mocking::MockCluster;
use rdkafka::producer::DefaultProducerContext;

use crate::error::OutboxError;
use crate::kafka::KafkaSettings;

/// Where the demo publishes.
pub(super) struct Broker {
    mock: Option<MockCluster<'static, DefaultProducerContext>>,
    settings: KafkaSettings,
    brokers: String,
    topic: String,
}

impl Broker {
    /// Starts the embedded broker, or makes a topic on a real one.
    pub(super) async fn open(real: Option<&KafkaSettings>, partitions: i32) -> Result<Broker, OutboxError> {
        let failed = |error| OutboxError::connection("the demo's topic can't be made", error);
        let Some(settings) = real else {
            let mock = MockCluster::new(1).map_err(failed)?;
            mock.create_topic("orders", partitions, 1).map_err(failed)?;
            let brokers = mock.bootstrap_servers();
            return Ok(Broker {
                settings: KafkaSettings::new(&brokers),
                mock: Some(mock),
                brokers,
                topic: "orders".to_owned(),
            });
        };
        let brokers = settings.brokers.clone();
        let topic = format!("walpost-demo-{:08x}", fastrand::u32(..));
        let admin = admin(settings)?;
        let new = NewTopic::new(&topic, partitions, TopicReplication::Fixed(-1));
        let options = AdminOptions::new().operation_timeout(Some(Duration::from_secs(10)));
        for result in admin.create_topics([&new], &options).await.map_err(failed)? {
            result.map_err(|(_, code)| {
                OutboxError::connection("the demo's topic can't be made", code.to_string())
            })?;
        }
        Ok(Broker { mock: None, settings: settings.clone(), brokers, topic })
    }

    /// What it is, and what it is not.
    pub(super) fn description(&self) -> String {
        match self.mock {
            Some(_) => {
                "embedded mock of librdkafka; keeps 5 MiB a partition, proves nothing about durability \
                        (--brokers names a real one)"
                    .to_owned()
            }
            None => format!("{}, topic {} (deleted at the end)", self.brokers, self.topic),
        }
    }

    pub(super) fn settings(&self) -> &KafkaSettings {
        &self.settings
    }

    pub(super) fn brokers(&self) -> &str {
        &self.brokers
    }

    pub(super) fn topic(&self) -> &str {
        &self.topic
    }

    /// Leaves nothing behind.
    pub(super) async fn close(self) {
        if self.mock.is_some() {
            return;
        }
        let options = AdminOptions::new();
        if let Ok(admin) = admin(&self.settings)
            && let Err(error) = admin.delete_topics(&[&self.topic], &options).await
        {
            tracing::warn!(topic = self.topic, error = error.to_string(), "the demo's topic is left behind");
        }
    }
}

fn admin(settings: &KafkaSettings) -> Result<AdminClient<DefaultClientContext>, OutboxError> {
    let mut config = ClientConfig::new();
    config.set("bootstrap.servers", &settings.brokers);
    for (name, value) in &settings.properties {
        config.set(name, value);
    }
    config.create().map_err(|error| OutboxError::connection("the demo's topic can't be made", error))
}
