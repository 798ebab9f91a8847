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
    o.who                                                                 AS oldest_writer,
    extract(epoch FROM now() - o.since)::float8                           AS oldest_writer_seconds
FROM pg_replication_slots s
LEFT JOIN pg_stat_replication r ON r.pid = s.active_pid
-- The log is kept from where the oldest transaction began that has written and not ended, whatever is confirmed.
LEFT JOIN LATERAL (
    SELECT format('PID %s of role %s', pid, usename) AS who, xact_start AS since
    FROM pg_stat_activity WHERE backend_xid IS NOT NULL AND pid <> pg_backend_pid()
    UNION ALL
    SELECT format('prepared transaction %L of role %s', gid, owner), prepared FROM pg_prepared_xacts
    ORDER BY since NULLS LAST LIMIT 1
) o ON true
WHERE s.slot_name = 'walpost';
