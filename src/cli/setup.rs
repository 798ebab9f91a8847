//! `walpost setup`: runs `sql/setup.sql`, or prints it.

use super::report;
use crate::config::Config;
use crate::error::OutboxError;
use crate::postgres::{Session, Target, inspect, setup_sql};

/// Prints the SQL instead of running it.
pub(super) fn print(target: &Target) -> Result<(), OutboxError> {
    print!("{}", setup_sql(target)?);
    Ok(())
}

/// Makes the table, function, publication, grants and slot; what is there stays as it is.
pub(super) async fn setup(config: &Config) -> Result<(), OutboxError> {
    let sql = setup_sql(&config.target)?;
    let session = Session::open_any(&config.database).await?;
    session.run_script("setting up", &sql).await?;
    let found = inspect(&session, &config.target).await?;
    if !report::print(&found.findings) {
        return Err(report::failures(&found.findings));
    }
    println!("\nServices INSERT into {}; `walpost run` publishes what they commit.", config.target.table);
    Ok(())
}
