//! Walpost against real servers: PostgreSQL, Apache Kafka, and the binary as a child process.
//!
//! `make test` installs what is missing and runs all of it.

// A test says "this must hold" with these.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

mod alone;
mod audit;
mod audit_live;
mod audit_topics;
mod authorization;
mod bytes;
mod check;
mod check_kafka;
mod check_servers;
mod container;
mod ddl;
mod dead_letters;
mod dead_letters_cli;
mod dead_letters_wait;
mod debezium;
mod debezium_config;
mod delivery;
mod demo;
mod desk;
mod disk;
mod emit;
mod environment;
mod examples;
mod failover;
mod faults;
mod grants;
mod header_names;
mod hostile;
mod identity;
mod kafka_logins;
mod later;
mod later_faults;
mod later_hands;
mod later_tables;
mod life;
mod logs;
mod mapping;
mod mapping_letters;
mod metrics;
mod others_names;
mod page;
mod peers;
mod publication;
mod restart;
mod retain;
mod retain_partitions;
mod rows;
mod servers;
mod setup;
mod shutdown;
mod stall;
mod status;
mod status_why;
mod support;
mod tables;
mod takeover;
mod teardown;
mod tls;
mod topics;
mod verify;
mod versions;
mod workload;
mod world;
mod write_back;
mod write_back_faults;
mod write_back_later;
mod write_back_needs;
