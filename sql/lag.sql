-- Walpost: how far the slot lies behind, in one row. `walpost status` runs this very file.

SELECT
    s.slot_name::text                                                     AS slot,
    s.active                                                              AS active,
    s.active_pid                                                          AS pid,
    r.application_name::text                                              AS held_by,
    r.client_addr::text                                                   AS held_from,
    r.backend_start::text                                                 AS held_since,
    s.confirmed_flush_lsn::text                                           AS confirmed_lsn,
    pg_current_wal_lsn()::text                                            AS current_lsn,
    pg_wal_lsn_diff(pg_current_wal_lsn(), s.confirmed_flush_lsn)::bigint  AS lag_bytes,
    pg_wal_lsn_diff(pg_current_wal_lsn(), s.restart_lsn)::bigint          AS retained_bytes,
    s.wal_status::text                                                    AS wal_status,
    s.safe_wal_size                                                       AS safe_bytes,
    extract(epoch FROM r.flush_lag)::float8                               AS lag_seconds,
    -- Columns that servers before 17 don't have are null there.
    to_jsonb(s) ->> 'invalidation_reason'                                 AS invalidation_reason,
    to_jsonb(s) ->> 'inactive_since'                                      AS inactive_since,
    -- A server that has just begun tells the time of that, for a slot that nobody reads.
    CASE WHEN (to_jsonb(s) ->> 'inactive_since')::timestamptz > pg_postmaster_start_time() + interval '1 minute'
         THEN extract(epoch FROM clock_timestamp() - (to_jsonb(s) ->> 'inactive_since')::timestamptz)::float8
    END                                                                   AS inactive_seconds,
    current_setting('max_slot_wal_keep_size')                             AS max_kept,
    extract(epoch FROM clock_timestamp())::float8                         AS at,
    o.xid::text                                                           AS oldest_xid,
    o.pid                                                                 AS oldest_pid,
    o.gid                                                                 AS oldest_prepared,
    o.application                                                         AS oldest_application,
    o.usename::text                                                       AS oldest_user,
    o.datname::text                                                       AS oldest_database,
    o.state                                                               AS oldest_state,
    o.since::text                                                         AS oldest_since,
    extract(epoch FROM clock_timestamp() - o.since)::float8               AS oldest_seconds
FROM pg_replication_slots s
LEFT JOIN pg_stat_replication r ON r.pid = s.active_pid
-- The oldest transaction, of any database, that has written and is still open: the server keeps the log from there on.
-- When it began and what it does is shown to its own user, a superuser and members of pg_read_all_stats.
LEFT JOIN (
    SELECT *
    FROM (
        SELECT backend_xid AS xid, pid, NULL AS gid, application_name::text AS application, usename, datname,
               state, xact_start AS since
        FROM pg_stat_activity
        WHERE backend_xid IS NOT NULL
        UNION ALL
        SELECT transaction, NULL, gid, NULL, owner, database, 'prepared', prepared
        FROM pg_prepared_xacts
    ) open_transactions
    ORDER BY age(xid) DESC
    LIMIT 1
) o ON true
WHERE s.slot_name = 'walpost';
