//! What is measured. One thing at a time differs from `drain-100`.

/// Latency, a crash or a drain, and of what.
#[derive(Clone, Copy)]
pub(crate) struct Workload {
    pub(crate) name: &'static str,
    pub(crate) about: &'static str,
    pub(crate) kind: Kind,
    pub(crate) rows: u32,
    /// Rows of a transaction.
    pub(crate) together: u32,
    /// Bytes of a row's payload.
    pub(crate) payload: u32,
    /// All rows have the same key.
    pub(crate) hot: bool,
    pub(crate) partitions: i32,
    /// The table has a column that the server can only send as text.
    pub(crate) text: bool,
}

#[derive(Clone, Copy)]
pub(crate) enum Kind {
    Drain,
    Crash,
    /// Rows per second.
    Latency {
        rate: u32,
    },
    Idle,
    Size(Stress),
    /// One relay beside two, each with a slot and half of the keys.
    Slots,
}

/// What others grow by.
#[derive(Clone, Copy)]
pub(crate) enum Stress {
    Drain,
    BrokerAway,
}

/// For all that differ in little.
const USUAL: Workload = Workload {
    name: "drain-100",
    about: "a backlog in transactions of 100 rows; all others differ from it in one thing",
    kind: Kind::Drain,
    rows: 500_000,
    together: 100,
    payload: 300,
    hot: false,
    partitions: 1,
    text: false,
};

pub(crate) const ALL: [Workload; 17] = [
    USUAL,
    Workload { name: "drain-1", about: "in transactions of one row", rows: 200_000, together: 1, ..USUAL },
    Workload {
        name: "drain-1m",
        about: "one transaction of a million rows",
        rows: 1_000_000,
        together: u32::MAX,
        ..USUAL
    },
    Workload { name: "payload-100", about: "payloads of 100 bytes", payload: 100, ..USUAL },
    Workload { name: "payload-4k", about: "payloads of 4 KB", rows: 100_000, payload: 4096, ..USUAL },
    Workload { name: "hot-key", about: "one key for all rows", hot: true, ..USUAL },
    Workload { name: "partitions-12", about: "a topic of twelve partitions", partitions: 12, ..USUAL },
    Workload { name: "text", about: "values come as text instead of in binary form", text: true, ..USUAL },
    Workload {
        name: "crash",
        about: "kill -9 in the middle of a drain, and how much comes again",
        kind: Kind::Crash,
        ..USUAL
    },
    Workload {
        name: "latency-500",
        about: "from COMMIT to a consumer at 500 rows/s, beside a plain producer",
        kind: Kind::Latency { rate: 500 },
        ..USUAL
    },
    Workload {
        name: "latency-5000",
        about: "the same at 5,000 rows/s",
        kind: Kind::Latency { rate: 5000 },
        ..USUAL
    },
    Workload { name: "idle", about: "a relay that has nothing to do: size, CPU", kind: Kind::Idle, ..USUAL },
    Workload {
        name: "size-backlog",
        about: "how large it gets with a backlog of five million rows",
        kind: Kind::Size(Stress::Drain),
        rows: 5_000_000,
        together: 1000,
        ..USUAL
    },
    Workload {
        name: "size-1tx",
        about: "the same in one transaction",
        kind: Kind::Size(Stress::Drain),
        rows: 5_000_000,
        together: u32::MAX,
        ..USUAL
    },
    Workload {
        name: "size-10mb",
        about: "how large it gets with rows of 10 MB",
        kind: Kind::Size(Stress::Drain),
        rows: 200,
        together: 10,
        payload: 10_000_000,
        ..USUAL
    },
    Workload {
        name: "size-away",
        about: "how large it gets while the broker is frozen for a minute under load",
        kind: Kind::Size(Stress::BrokerAway),
        ..USUAL
    },
    Workload {
        name: "slots-2",
        about: "two relays with a slot and half of the keys each, beside one (PostgreSQL 15 or later)",
        kind: Kind::Slots,
        ..USUAL
    },
];

impl Workload {
    /// For the head of its table.
    pub(crate) fn describe(&self) -> String {
        let together = self.together.min(self.rows);
        format!(
            "{} rows in transactions of {}, payload {} B, {}, {} partition{}, {}",
            crate::table::grouped(self.rows.into()),
            crate::table::grouped(together.into()),
            crate::table::grouped(self.payload.into()),
            if self.hot { "one hot key" } else { "10,000 keys" },
            self.partitions,
            if self.partitions == 1 { "" } else { "s" },
            if self.text { "text format" } else { "binary format" },
        )
    }
}
