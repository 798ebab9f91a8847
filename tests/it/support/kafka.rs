//! A real Apache Kafka broker: the one named in the environment, else a container, else a local process.

use std::env;
use std::net::SocketAddr;
use std::time::Duration;

use rdkafka::ClientConfig;
use rdkafka::admin::{AdminClient, AdminOptions, NewTopic, TopicReplication};
use rdkafka::client::DefaultClientContext;
use rdkafka::consumer::{BaseConsumer, Consumer};
use testcontainers::core::ContainerPort;
use testcontainers::{ContainerRequest, GenericImage, ImageExt};
use tokio::sync::OnceCell;
use tokio::task::spawn_blocking;
use tokio::time::Instant;

use super::chosen;
use super::container::Container;
use super::guard::Scratch;
use super::host::{Host, docker};
use super::local_kafka::Wired;
use super::{PATIENCE, Proxy, free_port, local_kafka};

const NAMED: &str = "WALPOST_TEST_BROKERS";

/// How much a broker of ours takes, and from whom.
#[derive(Clone, Copy)]
struct Size {
    /// Options of the virtual machine; first the heap, the one that a container takes.
    java: &'static [&'static str],
    /// The largest request, in bytes; none leaves all as it is.
    record: Option<&'static str>,
    /// Whether it knows access control lists; who is in none may do everything.
    guarded: bool,
    /// Whether it makes a topic that somebody asks for.
    makes_topics: bool,
}

// Quick to start rather than quick at length; on two cores every thread of a collector is one too many.
const SMALL: Size = Size {
    java: &["-Xmx512m", "-XX:+UseSerialGC", "-XX:TieredStopAtLevel=1", "-Xshare:auto"],
    record: None,
    guarded: false,
    makes_topics: false,
};
const LARGE: Size = Size {
    java: &["-Xmx3g", "-XX:+UseSerialGC", "-XX:TieredStopAtLevel=1", "-Xshare:auto"],
    record: Some("1000000000"),
    ..SMALL
};
const GUARDED: Size = Size { guarded: true, ..SMALL };
/// As `kafka-server-start.sh` starts it.
const SHIPPED: Size = Size {
    java: &[
        "-Xmx1G",
        "-Xms1G",
        "-server",
        "-XX:+UseG1GC",
        "-XX:MaxGCPauseMillis=20",
        "-XX:InitiatingHeapOccupancyPercent=35",
        "-XX:+ExplicitGCInvokesConcurrent",
    ],
    ..SMALL
};

impl Size {
    fn settings(self) -> impl Iterator<Item = (&'static str, String)> {
        let names = ["message.max.bytes", "socket.request.max.bytes", "replica.fetch.max.bytes"];
        let guard = [
            ("authorizer.class.name", "org.apache.kafka.metadata.authorizer.StandardAuthorizer"),
            ("allow.everyone.if.no.acl.found", "true"),
        ];
        let guard = guard.into_iter().filter(move |_| self.guarded);
        let made = [("auto.create.topics.enable", "true")].into_iter().filter(move |_| self.makes_topics);
        names
            .into_iter()
            .zip(std::iter::repeat(self.record))
            .filter_map(|(name, most)| Some((name, most?.to_owned())))
            .chain(guard.chain(made).map(|(name, value)| (name, value.to_owned())))
    }
}

pub(crate) struct KafkaBroker {
    /// Before `folder`, so that the broker is gone when its files go.
    host: Host,
    brokers: String,
    _folder: Option<Scratch>,
}

/// A broker and the breakable wire to it. The broker's own address leads around the wire.
pub(crate) struct BehindProxy {
    pub(crate) kafka: KafkaBroker,
    pub(crate) proxy: Proxy,
    /// For clients that shall come through the wire.
    pub(crate) brokers: String,
}

impl KafkaBroker {
    /// The one broker that most tests share; started by whoever comes first.
    pub(crate) async fn shared() -> &'static KafkaBroker {
        static SHARED: OnceCell<Result<KafkaBroker, String>> = OnceCell::const_new();
        let start = async || match env::var(NAMED) {
            Ok(brokers) => {
                let broker = KafkaBroker { host: Host::Named(NAMED), brokers, _folder: None };
                broker.ready().await.map(|()| broker)
            }
            Err(_) => {
                let broker = Self::launch(None, SMALL).await?;
                chosen::tell(&format!("the tests' broker is Kafka {}", chosen::kafka()));
                Ok(broker)
            }
        };
        match SHARED.get_or_init(start).await {
            Ok(broker) => broker,
            Err(error) => panic!("Kafka: {error}"),
        }
    }

    /// A broker of the test's own, which it may stop, kill, pause and start again.
    pub(crate) async fn start() -> KafkaBroker {
        Self::launch(None, SMALL).await.unwrap_or_else(|error| panic!("Kafka: {error}"))
    }

    /// A broker of the test's own that takes records of up to a gigabyte.
    pub(crate) async fn start_for_large_records() -> KafkaBroker {
        Self::launch(None, LARGE).await.unwrap_or_else(|error| panic!("Kafka: {error}"))
    }

    /// A broker of the test's own with access control lists, see `acl`.
    pub(crate) async fn start_guarded() -> KafkaBroker {
        Self::launch(None, GUARDED).await.unwrap_or_else(|error| panic!("Kafka: {error}"))
    }

    /// A broker of one's own that is quick at length, for figures.
    pub(crate) async fn start_as_shipped() -> KafkaBroker {
        Self::launch(None, SHIPPED).await.unwrap_or_else(|error| panic!("Kafka: {error}"))
    }

    /// A broker of the test's own that has a second door, to which a breakable wire leads.
    pub(crate) async fn start_behind_proxy() -> BehindProxy {
        Self::start_wired(SMALL).await
    }

    /// A broker of the test's own at this port, which says that it is at another address.
    pub(crate) async fn start_advertised(port: u16, advertised: SocketAddr) -> KafkaBroker {
        let started = Self::launch(Some(Wired { port, advertised }), SMALL).await;
        started.unwrap_or_else(|error| panic!("Kafka: {error}"))
    }

    /// The same that makes topics and knows access control lists.
    pub(crate) async fn start_open_handed_behind_proxy() -> BehindProxy {
        Self::start_wired(Size { guarded: true, makes_topics: true, ..SMALL }).await
    }

    async fn start_wired(size: Size) -> BehindProxy {
        let port = free_port();
        let proxy = Proxy::start(format!("127.0.0.1:{port}")).await;
        let wired = Some(Wired { port, advertised: proxy.address() });
        let kafka = Self::launch(wired, size).await.unwrap_or_else(|error| panic!("Kafka: {error}"));
        BehindProxy { brokers: proxy.address().to_string(), kafka, proxy }
    }

    /// A broker of the test's own with more doors on these ports, by its settings for the address that it binds to.
    pub(crate) async fn start_changed(
        ports: &[u16],
        change: impl FnOnce(&str, &mut Vec<(&'static str, String)>),
    ) -> KafkaBroker {
        let started = Self::launch_changed(None, SMALL, ports, change).await;
        started.unwrap_or_else(|error| panic!("Kafka: {error}"))
    }

    async fn launch(wired: Option<Wired>, size: Size) -> Result<KafkaBroker, String> {
        Self::launch_changed(wired, size, &[], |_, _| {}).await
    }

    async fn launch_changed(
        wired: Option<Wired>,
        size: Size,
        more: &[u16],
        change: impl FnOnce(&str, &mut Vec<(&'static str, String)>),
    ) -> Result<KafkaBroker, String> {
        let (port, controller) = (free_port(), free_port());
        let brokers = format!("127.0.0.1:{port}");
        let broker = if docker() {
            let mut settings = local_kafka::settings("0.0.0.0", port, controller, wired);
            settings.extend(size.settings());
            change("0.0.0.0", &mut settings);
            settings.push(("heap.opts", size.java[0].to_owned()));
            let ports = [Some(port), wired.map(|wired| wired.port)];
            let ports = ports.into_iter().flatten().chain(more.iter().copied());
            let host = Host::Container(container(ports, &settings).await?);
            KafkaBroker { host, brokers, _folder: None }
        } else {
            let folder = Scratch::new("kafka");
            let mut settings = local_kafka::settings("127.0.0.1", port, controller, wired);
            settings.extend(size.settings());
            change("127.0.0.1", &mut settings);
            let host = Host::Local(local_kafka::prepare(&folder, &settings, size.java)?);
            host.launch();
            KafkaBroker { host, brokers, _folder: Some(folder) }
        };
        broker.ready().await.map(|()| broker)
    }

    /// For `bootstrap.servers`.
    pub(crate) fn brokers(&self) -> &str {
        &self.brokers
    }

    pub(crate) async fn create_topic(&self, name: &str, partitions: i32) {
        self.create_topics(&[(name, partitions)]).await;
    }

    /// Names and numbers of partitions.
    pub(crate) async fn create_topics(&self, topics: &[(&str, i32)]) {
        let admin: AdminClient<DefaultClientContext> = config(&self.brokers).create().unwrap();
        // Kept for good, since a record may bear a time of long ago.
        let new =
            |(name, count)| NewTopic::new(name, count, TopicReplication::Fixed(1)).set("retention.ms", "-1");
        let topics: Vec<NewTopic<'_>> = topics.iter().copied().map(new).collect();
        let options = AdminOptions::new().operation_timeout(Some(PATIENCE));
        for result in admin.create_topics(&topics, &options).await.unwrap() {
            result.unwrap_or_else(|(topic, error)| panic!("topic {topic}: {error}"));
        }
    }

    pub(crate) async fn delete_topic(&self, name: &str) {
        let admin: AdminClient<DefaultClientContext> = config(&self.brokers).create().unwrap();
        let options = AdminOptions::new().operation_timeout(Some(PATIENCE));
        for result in admin.delete_topics(&[name], &options).await.unwrap() {
            result.unwrap_or_else(|(topic, error)| panic!("topic {topic}: {error}"));
        }
    }

    /// Where it runs, for its log.
    pub(crate) fn host(&self) -> &Host {
        &self.host
    }

    /// An orderly shutdown.
    pub(crate) async fn stop(&self) {
        self.host.stop("TERM", PATIENCE).await;
    }

    pub(crate) async fn kill(&self) {
        self.host.stop("KILL", PATIENCE).await;
    }

    /// Connections stay open, nobody answers.
    pub(crate) fn pause(&self) {
        self.host.signal("STOP");
    }

    pub(crate) fn resume(&self) {
        self.host.signal("CONT");
    }

    /// Back on the same port with the same data.
    pub(crate) async fn start_again(&self) {
        self.host.launch();
        self.ready().await.unwrap_or_else(|error| panic!("Kafka: {error}"));
    }

    /// An open port is not readiness: the broker is ready when it counts itself among the living.
    async fn ready(&self) -> Result<(), String> {
        let deadline = Instant::now() + PATIENCE;
        loop {
            let config = config(&self.brokers);
            let answer = spawn_blocking(move || {
                let client: BaseConsumer = config.create()?;
                client.fetch_metadata(None, Duration::from_secs(1))
            });
            let error = match answer.await.unwrap() {
                Ok(metadata) if !metadata.brokers().is_empty() => return Ok(()),
                Ok(_) => "no broker in the metadata".to_owned(),
                Err(error) => error.to_string(),
            };
            if !self.host.running() || Instant::now() > deadline {
                return Err(format!("{} does not answer: {error}\n{}", self.brokers, self.host.log()));
            }
        }
    }
}

/// What every client of the tests has in common.
pub(crate) fn config(brokers: &str) -> ClientConfig {
    let mut config = ClientConfig::new();
    config.set("bootstrap.servers", brokers);
    // A broker that was away must not be waited for longer than it takes to come back.
    config.set("reconnect.backoff.ms", "20").set("reconnect.backoff.max.ms", "200");
    config
}

async fn container(
    ports: impl Iterator<Item = u16>,
    settings: &[(&str, String)],
) -> Result<Container, String> {
    let image = GenericImage::new("apache/kafka", &chosen::kafka());
    // The same port inside and outside, so that the one advertised address holds on both sides.
    let mut request = ports.fold(ContainerRequest::from(image), |request, port| {
        request.with_mapped_port(port, ContainerPort::Tcp(port))
    });
    for (name, value) in settings {
        // The image turns such variables back into properties.
        request = request.with_env_var(
            format!("KAFKA_{}", name.to_uppercase().replace('-', "___").replace('.', "_")),
            value,
        );
    }
    Container::start(request).await
}
