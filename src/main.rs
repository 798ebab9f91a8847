//! The binary: a result becomes an exit code.

use std::process::ExitCode;

use clap::Parser as _;
use walpost::cli::{self, Arguments};

/// librdkafka's too: a record is allocated on one thread and freed on another, which costs the C library's dearly.
#[global_allocator]
static ALLOCATOR: tikv_jemallocator::Jemalloc = tikv_jemallocator::Jemalloc;

fn main() -> ExitCode {
    // Prints help and wrong usage itself, and exits with 0 and 2.
    let arguments = Arguments::parse();
    let ended = cli::as_first_process(&arguments)
        .unwrap_or_else(|| cli::execute(&arguments, std::env::vars_os()).map(|()| ExitCode::SUCCESS));
    ended.unwrap_or_else(|error| cli::report(&error))
}
