//! `walpost setup`: runs `sql/setup.sql` and `sql/retain.sql`, or prints them.

use super::report;
use crate::cli::output;
use crate::config::Config;
use crate::error::OutboxError;
use crate::postgres::{Backfill, Cells, Finding, SEND_WHAT_IS_MISSING, Session, Target, quote_identifier};
use crate::postgres::{
    as_found, as_told, inspect, inspect_dead_letters, inspect_readable, inspect_waiting, inspect_write_back,
    made_sql, make_slot_with_rows, setup_sql, setup_sql_without_slot, unsent,
};

/// The relay's role, as set-up names it.
const ROLE: &str = "walpost";

/// Prints the SQL instead of running it.
pub(super) fn print(target: &Target) -> Result<(), OutboxError> {
    output::write(&setup_sql(&as_told(target))?);
    Ok(())
}

/// Makes the table, function, publication, grants and slot; what is there stays as it is.
pub(super) async fn setup(config: &Config, backfill: Backfill) -> Result<(), OutboxError> {
    let target = &config.target;
    // A name that can't be set up is told without a server.
    setup_sql(target)?;
    let session = Session::open_any(&config.database).await?;
    // What the server or the login lacks is told before anything is half made.
    let (foreign, needs_table) = foreign_tables(target);
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
    let there = Made::look(&session, target).await?;
    let found = as_found(&session, target).await?;
    let has_all = backfill == Backfill::None || slot_exists;
    let sql = if has_all { setup_sql(&found)? } else { setup_sql_without_slot(&found)? };
    if let Err(error) = session.run_script("setting up", &sql).await {
        return Err(not_by_this_role(&session, error).await);
    }
    let role = RelayRole::look(&session).await?;
    role.warn_if_missing();
    if backfill != Backfill::None {
        make_slot(config, &session, backfill, slot_exists).await?;
    }
    // At once: the next set-up finds a slot.
    if !has_all_rows(&session, target, slot_exists, backfill).await {
        output::say(&format!(
            "Slot {} does not bring rows that were committed before it was made. If it was dropped, or lost: \
             {SEND_WHAT_IS_MISSING}.",
            target.slot
        ));
    }
    let (found, unreadable) = look_again(config, &session).await?;
    Made::look(&session, target).await?.print_beyond(&there);
    report::print_problems(&found);
    report::verdict(&found)?;
    output::say("");
    role.tell_of_password();
    if let Some(unreadable) = unreadable {
        output::say(&format!("A relay will not start before slot {} is moved:", target.slot));
        let unreadable = [unreadable];
        report::print(&unreadable);
        return report::verdict(&unreadable);
    }
    output::say(&format!(
        "Services INSERT into {}; `walpost run` publishes what they commit.",
        target.tables()
    ));
    Ok(())
}

/// Whether no row is older than the slot, as far as the tables may be read.
async fn has_all_rows(session: &Session, target: &Target, slot_existed: bool, backfill: Backfill) -> bool {
    slot_existed || backfill != Backfill::None || !matches!(unsent(session, target).await, Ok(Some(_)))
}

/// What is wrong still, and what keeps a relay from reading the slot.
async fn look_again(
    config: &Config,
    session: &Session,
) -> Result<(Vec<Finding>, Option<Finding>), OutboxError> {
    let target = &config.target;
    let mut found = inspect(session, target).await?;
    inspect_waiting(session, target, &mut found).await?;
    inspect_write_back(session, target, &mut found).await?;
    let unreadable = inspect_readable(&config.database, target, &mut found).await;
    let mut found = found.findings;
    found.push(inspect_dead_letters(session, target, config.refusal.on_refusal).await?);
    Ok((found, unreadable))
}

/// Says who has to run it, if it was somebody who may not.
async fn not_by_this_role(session: &Session, error: OutboxError) -> OutboxError {
    if error.sqlstate() != Some("42501") {
        return error;
    }
    // The transaction of the script is still open.
    let _ = session.client().batch_execute("ROLLBACK").await;
    let row = session.query_one_row("asking for the role", "SELECT current_user::text").await;
    let role: Option<String> = row.ok().flatten().and_then(|row| row.cell(0).ok());
    let who = match role.as_deref() {
        Some(ROLE) => format!("{ROLE} is the relay's own role, which may not"),
        Some(role) => format!("role {} may not", quote_identifier(role)),
        None => "this role may not".to_owned(),
    };
    error.with_advice(format!(
        "run it as the owner: a superuser, or the owner of the tables with CREATE on the database and the attribute \
         REPLICATION; {who}"
    ))
}

/// What is known of the relay's role.
struct RelayRole {
    exists: bool,
    /// It can log in by a password, or has done so without one; none if that can't be seen.
    has_login: Option<bool>,
}

impl RelayRole {
    async fn look(session: &Session) -> Result<RelayRole, OutboxError> {
        let during = "looking for the role";
        let sql = format!(
            "SELECT EXISTS (SELECT FROM pg_roles WHERE rolname = '{ROLE}'), \
             EXISTS (SELECT FROM pg_stat_activity WHERE usename = '{ROLE}'), \
             has_table_privilege('pg_authid', 'SELECT')"
        );
        let Some(row) = session.query_one_row(during, &sql).await? else {
            return Ok(RelayRole { exists: false, has_login: None });
        };
        let (exists, is_here, may_see): (bool, bool, bool) = (row.cell(0)?, row.cell(1)?, row.cell(2)?);
        let has_login = if is_here {
            Some(true)
        } else if may_see {
            let sql = format!("SELECT rolpassword IS NOT NULL FROM pg_authid WHERE rolname = '{ROLE}'");
            session.query_one_row(during, &sql).await?.map(|row| row.cell(0)).transpose()?
        } else {
            None
        };
        Ok(RelayRole { exists, has_login })
    }

    fn warn_if_missing(&self) {
        if !self.exists {
            output::say(
                "warn  role         there is no role walpost, and only an administrator can make one",
            );
            output::say(
                "                   -> CREATE ROLE walpost LOGIN REPLICATION PASSWORD '...'; then run this again",
            );
        }
    }

    fn tell_of_password(&self) {
        let mend = format!("ALTER ROLE {ROLE} PASSWORD '...';");
        match self.has_login {
            _ if !self.exists => {}
            Some(true) => {}
            Some(false) => {
                output::say(&format!("Role {ROLE} has no password, which its login needs: {mend}"))
            }
            None => output::say(&format!(
                "Whether role {ROLE} has a password can't be seen from here; if it has none: {mend}"
            )),
        }
    }
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
