//! The parts of the road in time: `cargo bench --features fuzzing --bench parts`. Times are of the machine and of the
//! moment; `scripts/instructions` counts what both don't change.

// The rows are our own.
#![allow(clippy::expect_used, clippy::panic)]

#[path = "parts/work.rs"]
mod work;

use std::time::Duration;

use criterion::{Criterion, Throughput};

use work::{Material, PARTS, ROWS};

fn main() {
    let mut criterion = Criterion::default()
        .warm_up_time(Duration::from_secs(1))
        .measurement_time(Duration::from_secs(3))
        .configure_from_args();
    let material = Material::new();
    let mut group = criterion.benchmark_group("a hundred rows");
    group.throughput(Throughput::Elements(ROWS as u64));
    for (name, part) in PARTS {
        group.bench_function(name, |bencher| bencher.iter(|| part(&material)));
    }
    group.finish();
    criterion.final_summary();
}
