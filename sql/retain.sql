-- Walpost: retention. `walpost setup` runs this behind setup.sql; run it again as the owner of the table whenever you like.
--
--     CALL outbox.retain('1 day');
--
-- removes what is older than a day and published: whole partitions where the table is partitioned by created_at, else rows,
-- in batches of a thousand, each a transaction of its own. So it must be called outside of a transaction block. From
-- cron, or by pg_cron in the database of the table:
--
--     */5 * * * *  psql -X -q -d shop -c "CALL outbox.retain('1 day')"
--     SELECT cron.schedule('outbox', '*/5 * * * *', $$CALL outbox.retain('1 day')$$);
--
-- It runs with the rights of its caller, who must be able to act as the owner: GRANT <owner> TO <role of cron>; and calls
-- the server's own functions alone, whoever may make others in a schema of the caller's search_path. Triggers of the table
-- have the caller's.
--
-- How it knows what is published. A row does not tell where in the log it was committed, but which transaction wrote it
-- (xmin), and a slot tells which transaction is the oldest that it may still need (catalog_xmin). The server takes
-- catalog_xmin from records in the log that name the running transactions (xl_running_xacts, written by checkpoints and
-- every 15 s while something happens): it is never above the oldest of them, and it is taken over only once the slot has
-- confirmed the place of the record (SnapBuildProcessRunningXacts, LogicalIncreaseXminForSlot and
-- LogicalConfirmReceivedLocation in src/backend/replication/logical/). A transaction leaves the list of the running only after
-- its commit is in the log. So whatever is older than catalog_xmin was committed before that record, and that is below the
-- confirmed position. When a slot is made, catalog_xmin is at most the oldest transaction then running; older ones ended
-- before the slot began. A subtransaction is younger than its transaction, a prepared transaction counts as running, and
-- a row that was updated bears the later transaction: all of this errs on the safe side. So does the delay: a row goes up to
-- half a minute after it was confirmed, and not while a transaction from before it is open anywhere in the server.

BEGIN;

-- Whoever may make functions in a schema of your search_path must not be called in your name.
SET LOCAL search_path = pg_catalog, pg_temp;

-- Two set-ups at once would replace the procedure under each other's hands.
DO $lock$ BEGIN PERFORM pg_advisory_xact_lock(hashtext('outbox.messages')); END $lock$;

CREATE OR REPLACE PROCEDURE outbox.retain(keep interval, batch integer DEFAULT 1000)
LANGUAGE plpgsql  -- without SET search_path, which would forbid COMMIT: each transaction sets it for itself
AS $retain$
DECLARE
    relay_slot  CONSTANT text := 'walpost';
    callers     CONSTANT text := pg_catalog.current_setting('search_path');
    root        CONSTANT regclass := 'outbox.messages'::regclass;
    horizon     CONSTANT timestamptz := pg_catalog.now() OPERATOR(pg_catalog.-) keep;
    -- Steps of a megabyte, so that what was deleted a batch ago is not read again and again.
    step        CONSTANT bigint := 128;
    -- What can't be read as a time of its own (MINVALUE, MAXVALUE, DEFAULT) gives null.
    lower_bound CONSTANT text := 'FROM [(]''([^'']*)''[)]';
    upper_bound CONSTANT text := 'TO [(]''([^'']*)''[)]';
    -- Whether a row may still be needed, $1 being the oldest catalog_xmin: whether its xmin lies between that and the
    -- youngest transaction there is. Counted round the circle of 2^32, on which a row that was frozen long ago has
    -- its old number still, and may be overtaken by the counter.
    behind      CONSTANT text := '(pg_catalog.age($1)::bigint OPERATOR(pg_catalog.-) pg_catalog.age(%s))
        OPERATOR(pg_catalog.&) 4294967295';
    unconfirmed CONSTANT text := pg_catalog.format('(%s) OPERATOR(pg_catalog.<) (SELECT %s)', pg_catalog.format(behind, 'xmin'),
        pg_catalog.format(behind, 'pg_catalog.pg_snapshot_xmax(pg_catalog.pg_current_snapshot())::pg_catalog.xid'));
    oldest      xid;
    slowest     text;
    part        record;
    expired     text[];                                    -- partitions of which all rows are old enough
    swept       text[];                                    -- tables whose rows are looked at one by one
    place       text;
    deletion    text;
    first       tid;
    beyond      tid;
    needed      boolean;
    root_next   boolean;                                   -- a lock that is refused now is refused by the whole table
    busy        boolean := false;                          -- it was
    page        bigint;
    pages       bigint;
    removed     bigint;
    total       bigint := 0;
    dropped     bigint := 0;
BEGIN
    SET LOCAL search_path = pg_catalog, pg_temp;
    IF keep IS NULL OR keep < '0'::interval OR batch IS NULL OR batch < 1 THEN
        RAISE invalid_parameter_value USING MESSAGE = format('can''t keep %s in batches of %s', keep, batch);
    END IF;
    IF NOT EXISTS (SELECT FROM pg_attribute WHERE attrelid = root AND attname = 'created_at' AND NOT attisdropped) THEN
        RAISE undefined_column USING MESSAGE = format('table %s has no column created_at, which tells how old a row is', root);
    END IF;

    -- Every logical slot of this database may belong to somebody who publishes the table.
    IF NOT EXISTS (SELECT FROM pg_replication_slots s WHERE s.slot_name = relay_slot AND s.database = current_database()) THEN
        RAISE object_not_in_prerequisite_state USING
            MESSAGE = format('slot %s does not exist: nothing tells which rows were published, and none is removed', relay_slot),
            HINT = 'Run `walpost setup` with the slot that is in use.';
    END IF;
    SELECT s.slot_name INTO slowest FROM pg_replication_slots s
    WHERE s.slot_type = 'logical' AND s.database = current_database() AND (s.wal_status = 'lost' OR s.catalog_xmin IS NULL)
    LIMIT 1;
    IF found THEN
        RAISE object_not_in_prerequisite_state USING
            MESSAGE = format('slot %s is lost: nothing tells which rows it has not published, and none is removed', slowest),
            HINT = format('See what it has missed, then drop it: SELECT pg_drop_replication_slot(%L);', slowest);
    END IF;
    SELECT s.catalog_xmin, s.slot_name INTO oldest, slowest FROM pg_replication_slots s
    WHERE s.slot_type = 'logical' AND s.database = current_database()
    ORDER BY age(s.catalog_xmin) DESC LIMIT 1;

    -- Which tables there are. A partition no longer than `keep` goes as a whole or stays; a longer one, and what is no
    -- plain partition by created_at, is swept as well. Where no row can be old enough nothing is read.
    PERFORM set_config('DateStyle', 'ISO', true);
    FOR part IN
        WITH RECURSIVE tree AS (
            SELECT root::oid AS oid, NULL::oid AS parent
            UNION ALL
            SELECT i.inhrelid, i.inhparent FROM pg_inherits i JOIN tree t ON t.oid = i.inhparent
        ), leaf AS (
            SELECT format('%I.%I', n.nspname, c.relname) AS name, CASE WHEN t.parent = root AND k.partrelid IS NOT NULL
                THEN pg_get_expr(c.relpartbound, c.oid) END AS bounds
            FROM tree t JOIN pg_class c ON c.oid = t.oid JOIN pg_namespace n ON n.oid = c.relnamespace
            LEFT JOIN pg_partitioned_table k ON k.partrelid = root AND k.partstrat = 'r' AND k.partnatts = 1
                AND k.partattrs[0] = (SELECT attnum FROM pg_attribute WHERE attrelid = root AND attname = 'created_at')
            WHERE c.relkind = 'r'
        )
        SELECT name, substring(bounds FROM lower_bound)::timestamptz AS lower,
            substring(bounds FROM upper_bound)::timestamptz AS upper
        FROM leaf ORDER BY upper, name
    LOOP
        IF part.upper <= horizon THEN
            expired := expired || part.name;
        ELSIF part.lower >= horizon OR part.lower + keep >= part.upper THEN
            NULL;
        ELSE
            swept := swept || part.name;
        END IF;
    END LOOP;

    -- Each transaction from here on sees what was committed before each of its statements, whatever the session's default is.
    COMMIT;
    SET TRANSACTION ISOLATION LEVEL READ COMMITTED;
    SET LOCAL search_path = pg_catalog, pg_temp;

    -- Whole partitions. Looked through first without a lock, then under one that keeps writers out of this partition
    -- alone. Only the drop itself needs the whole table, and does not wait for it: writers would queue up behind.
    FOREACH place IN ARRAY coalesce(expired, '{}') LOOP
        root_next := false;
        BEGIN
            IF busy THEN
                RAISE lock_not_available;
            END IF;
            EXECUTE format('SELECT EXISTS (SELECT FROM ONLY %s WHERE %s)', place, unconfirmed) INTO needed USING oldest;
            IF NOT needed THEN
                PERFORM set_config('lock_timeout', '200ms', true);
                EXECUTE format('LOCK TABLE ONLY %s IN SHARE MODE', place);
                EXECUTE format('SELECT EXISTS (SELECT FROM ONLY %s WHERE %s)', place, unconfirmed) INTO needed USING oldest;
            END IF;
            IF needed THEN
                RAISE NOTICE 'partition % stays: slot % has not confirmed all of its rows', place, slowest;
            ELSE
                root_next := true;
                EXECUTE format('LOCK TABLE ONLY %s IN ACCESS EXCLUSIVE MODE', root);
                root_next := false;
                EXECUTE format('DROP TABLE %s', place);
                dropped := dropped + 1;
            END IF;
        EXCEPTION
            WHEN lock_not_available OR deadlock_detected THEN
                busy := busy OR root_next;
                RAISE NOTICE 'partition % stays until the next call: % is in use', place,
                    CASE WHEN busy THEN root::text ELSE 'it' END;
            WHEN undefined_table THEN
                NULL;  -- another call was faster
            WHEN dependent_objects_still_exist OR insufficient_privilege THEN
                RAISE WARNING 'partition % can''t be dropped, so its rows are removed: %', place, SQLERRM;
                swept := swept || place;
        END;
        COMMIT AND CHAIN;
        SET LOCAL search_path = pg_catalog, pg_temp;
    END LOOP;

    -- Rows, from the first page to the last. What somebody else has locked is passed over.
    FOREACH place IN ARRAY coalesce(swept, '{}') LOOP
        page := 0;
        pages := pg_relation_size(to_regclass(place)) / current_setting('block_size')::bigint;
        deletion := format(
            'WITH old AS (
                SELECT ctid FROM ONLY %1$s
                WHERE ctid OPERATOR(pg_catalog.>=) $2 AND ctid OPERATOR(pg_catalog.<) $3
                    AND created_at OPERATOR(pg_catalog.<) $4 AND NOT (%2$s)
                LIMIT $5 FOR UPDATE SKIP LOCKED
            )
            DELETE FROM ONLY %1$s WHERE ctid OPERATOR(pg_catalog.=) ANY (ARRAY(SELECT ctid FROM old))', place, unconfirmed);
        WHILE page < pages LOOP
            first := format('(%s,0)', page)::tid;
            beyond := format('(%s,0)', page + step)::tid;
            PERFORM set_config('search_path', callers, true);
            EXECUTE deletion USING oldest, first, beyond, horizon, batch;
            GET DIAGNOSTICS removed = ROW_COUNT;
            COMMIT AND CHAIN;
            SET LOCAL search_path = pg_catalog, pg_temp;
            total := total + removed;
            IF removed < batch THEN
                page := page + step;
            END IF;
        END LOOP;
    END LOOP;

    RAISE NOTICE '% rows removed, % partitions dropped; slot % is behind all others, and may need transaction % and later ones',
        total, dropped, slowest, oldest;
END
$retain$;

COMMIT;
