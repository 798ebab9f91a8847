//! What is typed behind `--`.

use std::path::PathBuf;

use clap::CommandFactory as _;
use clap::error::ErrorKind;

use crate::workloads::{ALL, Workload};

/// Benchmarks of the relay against real servers of this machine
#[derive(clap::Parser)]
pub(crate) struct Options {
    /// Run these workloads alone; several separated by commas
    #[arg(long, value_delimiter = ',', value_name = "NAME")]
    only: Vec<String>,
    /// Rows of each backlog, instead of each workload's own number
    #[arg(long, value_parser = clap::value_parser!(u32).range(100..))]
    pub(crate) rows: Option<u32>,
    /// How often the reader and the relay take turns
    #[arg(long, default_value_t = 3, value_parser = clap::value_parser!(u32).range(1..))]
    pub(crate) pairs: u32,
    /// How long latency is measured, after two seconds that are left out
    #[arg(long, default_value_t = 20, value_parser = clap::value_parser!(u32).range(1..))]
    pub(crate) seconds: u32,
    /// Debezium Server beside them in each drain, into the same topic; `make bench` then fetches it
    #[arg(long)]
    pub(crate) debezium: bool,
    /// The relay; `make bench` names the release binary, since cargo builds another one for benchmarks
    #[arg(long, value_name = "PATH", default_value = env!("CARGO_BIN_EXE_walpost"))]
    pub(crate) relay: PathBuf,
    /// Name the workloads
    #[arg(long)]
    pub(crate) list: bool,
    /// What cargo adds
    #[arg(long, hide = true)]
    bench: bool,
}

impl Options {
    /// The workloads that were asked for, with the rows that were asked for.
    pub(crate) fn chosen(&self) -> Result<Vec<Workload>, clap::Error> {
        if let Some(unknown) = self.only.iter().find(|name| ALL.iter().all(|it| it.name != **name)) {
            let text = format!("there is no workload {unknown}; --list names them\n");
            return Err(Options::command().error(ErrorKind::InvalidValue, text));
        }
        let wanted = |it: &Workload| self.only.is_empty() || self.only.iter().any(|name| name == it.name);
        let sized = |it: Workload| Workload { rows: self.rows.unwrap_or(it.rows), ..it };
        Ok(ALL.into_iter().filter(wanted).map(sized).collect())
    }
}
