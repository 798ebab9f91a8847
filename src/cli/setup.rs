//! `walpost setup`: runs `sql/setup.sql`, or prints it.

use super::report;
use crate::cli::output;
use crate::config::Config;
use crate::error::OutboxError;
use crate::postgres::{Cells, Session, Target, inspect, inspect_dead_letters, setup_sql};

/// Prints the SQL instead of running it.
pub(super) fn print(target: &Target) -> Result<(), OutboxError> {
    output::write(&setup_sql(target)?);
    Ok(())
}

/// Makes the table, function, publication, grants and slot; what is there stays as it is.
pub(super) async fn setup(config: &Config) -> Result<(), OutboxError> {
    let sql = setup_sql(&config.target)?;
    let session = Session::open_any(&config.database).await?;
    // What the server or the login lacks is told before anything is half made.
    let mut before = inspect(&session, &config.target).await?.findings;
    let needs_table = !config.target.mapping.made_by_setup;
    before.retain(|found| match found.subject {
        "server" | "primary" | "wal_level" | "role" => true,
        subject => needs_table && subject == "table",
    });
    if let Err(error) = report::verdict(&before) {
        report::print(&before);
        return Err(error);
    }
    session.run_script("setting up", &sql).await?;
    let has_role = "SELECT EXISTS (SELECT FROM pg_roles WHERE rolname = 'walpost')";
    let row = session.query_one_row("looking for the role", has_role).await?;
    if !row.map_or(Ok(false), |row| row.cell(0))? {
        output::say("warn  role         there is no role walpost, and only an administrator can make one");
        output::say(
            "                   -> CREATE ROLE walpost LOGIN REPLICATION PASSWORD '...'; then run this again",
        );
    }
    let mut found = inspect(&session, &config.target).await?.findings;
    found.push(inspect_dead_letters(&session, &config.target, config.refusal.on_refusal).await?);
    report::print(&found);
    report::verdict(&found)?;
    output::say(
        "\nThe relay's login needs a password, unless it has one: ALTER ROLE walpost PASSWORD '...';",
    );
    output::say(&format!(
        "Services INSERT into {}; `walpost run` publishes what they commit.",
        config.target.table
    ));
    Ok(())
}
