//! Real Debezium and Walpost on two slots over the same rows, with the same file of settings: their topics must hold the
//! same, record by record.

mod configurations;
mod corpus;
mod handover;
mod lab;
mod side_by_side;
mod stops;
