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
    extract(epoch FROM r.flush_lag)::float8                               AS lag_seconds
FROM pg_replication_slots s
LEFT JOIN pg_stat_replication r ON r.pid = s.active_pid
WHERE s.slot_name = 'walpost';
