//! `walpost setup`: runs `sql/setup.sql` and `sql/retain.sql`, or prints them.

use super::report;
use crate::cli::output;
use crate::config::Config;
use crate::error::OutboxError;
use crate::postgres::{Backfill, Cells, Session, Target};
use crate::postgres::{
    inspect, inspect_dead_letters, inspect_waiting, made_sql, make_slot_with_rows, setup_sql,
    setup_sql_without_slot,
};

/// Prints the SQL instead of running it.
pub(super) fn print(target: &Target) -> Result<(), OutboxError> {
    output::write(&setup_sql(target)?);
    Ok(())
}

/// Makes the table, function, publication, grants and slot; what is there stays as it is.
pub(super) async fn setup(config: &Config, backfill: Backfill) -> Result<(), OutboxError> {
    let sql = setup_sql(&config.target)?;
    let session = Session::open_any(&config.database).await?;
    // What the server or the login lacks is told before anything is half made.
    let (foreign, needs_table) = foreign_tables(&config.target);
    let before = inspect(&session, &foreign).await?;
    let slot_exists = before.slot_exists();
    let mut before = before.findings;
    before.retain(|found| match found.subject {
        "server" | "primary" | "wal_level" | "role" => true,
        subject => needs_table && matches!(subject, "table" | "mapping"),
    });
    if let Err(error) = report::verdict(&before) {
        report::print(&before);
        return Err(error);
    }
    let there = Made::look(&session, &config.target).await?;
    if backfill == Backfill::None || slot_exists {
        session.run_script("setting up", &sql).await?;
    } else {
        session.run_script("setting up", &setup_sql_without_slot(&config.target)?).await?;
    }
    let has_role = "SELECT EXISTS (SELECT FROM pg_roles WHERE rolname = 'walpost')";
    let row = session.query_one_row("looking for the role", has_role).await?;
    if !row.map_or(Ok(false), |row| row.cell(0))? {
        output::say("warn  role         there is no role walpost, and only an administrator can make one");
        output::say(
            "                   -> CREATE ROLE walpost LOGIN REPLICATION PASSWORD '...'; then run this again",
        );
    }
    if backfill != Backfill::None {
        make_slot(config, &session, backfill, slot_exists).await?;
    }
    let mut found = inspect(&session, &config.target).await?;
    inspect_waiting(&session, &config.target, &mut found).await?;
    let mut found = found.findings;
    found.push(inspect_dead_letters(&session, &config.target, config.refusal.on_refusal).await?);
    Made::look(&session, &config.target).await?.print_beyond(&there);
    report::print_problems(&found);
    report::verdict(&found)?;
    output::say(
        "\nThe relay's login needs a password, unless it has one: ALTER ROLE walpost PASSWORD '...';",
    );
    output::say(&format!(
        "Services INSERT into {}; `walpost run` publishes what they commit.",
        config.target.tables()
    ));
    Ok(())
}

/// What is there of all that set-up makes: kind and name.
struct Made(Vec<(String, String)>);

impl Made {
    async fn look(session: &Session, target: &Target) -> Result<Made, OutboxError> {
        let rows = session.client().query(&made_sql(target), &[]).await;
        let rows = rows.map_err(|error| OutboxError::connection("looking at what is there", error))?;
        let pair = |row: &tokio_postgres::Row| Ok((row.cell(0)?, row.cell(1)?));
        rows.iter().map(pair).collect::<Result<_, _>>().map(Made)
    }

    fn print_beyond(&self, before: &Made) {
        let new: Vec<_> = self.0.iter().filter(|one| !before.0.contains(one)).collect();
        for (kind, name) in &new {
            output::say(&format!("made  {kind:<12} {name}"));
        }
        if new.is_empty() {
            output::say("ok    setup        all of it is there already");
        }
    }
}

/// The tables that set-up does not make, and so must be there before; whether there are any.
fn foreign_tables(target: &Target) -> (Target, bool) {
    let mut foreign = target.outboxes().filter(|outbox| !outbox.mapping.made_by_setup).cloned();
    match foreign.next() {
        Some(main) => (Target { main, others: foreign.collect(), ..target.clone() }, true),
        None => (target.clone(), false),
    }
}

/// Makes the slot so that rows which are there already are sent first.
async fn make_slot(
    config: &Config,
    session: &Session,
    backfill: Backfill,
    slot_exists: bool,
) -> Result<(), OutboxError> {
    let (target, slot) = (&config.target, &config.target.slot);
    if slot_exists {
        output::say(&format!(
            "slot {slot} is there already: rows that are older are left alone (`walpost replay` sends chosen ones)"
        ));
        return Ok(());
    }
    let preflight = inspect(session, target).await?.passed()?;
    let counts = make_slot_with_rows(&config.database, target, &preflight, backfill).await?;
    for (outbox, count) in target.outboxes().zip(counts) {
        output::say(&format!("{count} rows of {} that are there already come first", outbox.table));
    }
    Ok(())
}
