//! Whether events can be written without a table, by whom, and whether this relay takes them.

use super::{Preflight, rows};
use crate::error::OutboxError;
use crate::postgres::names::{Target, quote_identifier, quote_literal};
use crate::postgres::session::{Cells, Session};

/// The function that writes events without a table.
pub(super) async fn inspect(
    session: &Session,
    target: &Target,
    report: &mut Preflight,
) -> Result<(), OutboxError> {
    let function = format!("{}.emit", quote_identifier(&target.table.schema));
    let sql = format!(
        "SELECT to_regprocedure({}) IS NOT NULL, (SELECT string_agg(p.oid::regprocedure::text, ', ') FROM pg_proc p, \
         aclexplode(coalesce(proacl, acldefault('f', proowner))) a WHERE proname = 'pg_logical_emit_message' \
         AND a.grantee = 0 AND a.privilege_type = 'EXECUTE')",
        quote_literal(&format!("{function}(text, json, text, text, jsonb, text)"))
    );
    let Some(row) = rows(session, &sql).await?.pop() else { return Ok(()) };
    match (row.cell::<bool, _>(0)?, target.emit) {
        (false, false) => {}
        (true, false) => report.fail(
            "emit",
            format!("there is a function {function}, and this relay would pass its events over"),
            format!(
                "set --emit on, or, once no service calls it: DROP FUNCTION {function}(text, json, text, text, jsonb, text);"
            ),
        ),
        (false, true) => report.warn(
            "emit",
            format!("there is no function {function}, which writes events without a table"),
            "run `walpost setup --emit on`",
        ),
        (true, true) => match row.cell::<Option<String>, _>(1)? {
            None => report.good("emit", function),
            Some(open) => report.warn(
                "emit",
                format!("whoever may log in can publish without {function}, by writing into the log"),
                format!("REVOKE EXECUTE ON FUNCTION {open} FROM PUBLIC; and GRANT it to the owner of {function}"),
            ),
        },
    }
    Ok(())
}
