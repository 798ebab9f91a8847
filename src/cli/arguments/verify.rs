//! Arguments of `walpost verify`.

use clap::Args;

use super::shared::KafkaArguments;

/// Arguments of `walpost verify`.
#[derive(Args)]
pub struct VerifyArguments {
    /// A topic, or a prefix and a star for all topics that begin so
    #[arg(value_name = "LEFT")]
    pub left: String,
    /// The topic, or the prefix and a star, to compare it with
    ///
    /// Of two sets, those topics are compared for whose star stands the same. A topic without its counterpart is a
    /// difference.
    #[arg(value_name = "RIGHT")]
    pub right: String,
    /// A header that does not count, on either side; may be given again and again
    ///
    /// A star at the end stands for all that begin so. Useful ones are walpost.* (where in the log a row was) and, with
    /// Debezium, __debezium.context.*, of which __debezium.context.runId is another in every run.
    #[arg(long, value_name = "NAME")]
    pub ignore_header: Vec<String>,
    /// Pass over records that a relay has sent again
    ///
    /// A repeat has the header id of an earlier record in its partition; without such a header it is one with the same
    /// key, value and headers. About 40 bytes of memory are needed for each record of the partition that is being read,
    /// on each side.
    #[arg(long)]
    pub ignore_repeats: bool,
    /// Compare the records' times as well
    ///
    /// A relay that gives none sends the time of sending, which differs in any case.
    #[arg(long)]
    pub timestamps: bool,
    /// Compare the records of each key in their order, in whichever partitions they are
    ///
    /// For topics with other partitioners or numbers of partitions. Records without a key are compared in any order.
    /// A key must not be spread over several partitions of one side. About 80 bytes of memory are needed for each key of
    /// a topic, and 150 for each record whose counterpart has not been read yet.
    #[arg(long, conflicts_with = "unordered")]
    pub by_key: bool,
    /// Compare the topics as bags: all records, in whatever partition and order
    ///
    /// For records without keys, which some relays spread at random. About 150 bytes of memory are needed for each record
    /// whose counterpart has not been read yet.
    #[arg(long)]
    pub unordered: bool,
    /// Compare no more than so many records of each partition
    #[arg(long, value_name = "NUMBER", conflicts_with_all = ["by_key", "unordered"],
          value_parser = clap::value_parser!(u64).range(1..))]
    pub limit: Option<u64>,
    /// Show of what differs up to 80 bytes around the first that does, from both sides
    #[arg(long)]
    pub show: bool,
    /// Print one JSON object on stdout
    #[arg(long)]
    pub json: bool,
    /// Brokers of the right side, if it is in another cluster: host:port, separated by commas
    ///
    /// All properties given by -X, the environment or the file hold for both clusters.
    #[arg(long, value_name = "LIST")]
    pub right_brokers: Option<String>,
    #[command(flatten)]
    kafka: KafkaArguments,
}

impl VerifyArguments {
    pub(super) fn kafka(&self) -> &KafkaArguments {
        &self.kafka
    }
}

pub(super) const EXAMPLES: &str = "\
Examples:
  walpost verify old.orders new.orders --ignore-header 'walpost.*' --show
  walpost verify 'old.*' 'new.*' --ignore-repeats --ignore-header 'walpost.*' \\
    --ignore-header '__debezium.context.*'
  walpost verify orders orders --brokers kafka1:9092 --right-brokers kafka2:9092 --json";
