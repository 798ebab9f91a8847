-- Walpost: takes back what setup.sql put into the database, the slot first: a slot that nobody reads
-- makes the server keep its log until the disk is full.
--
--     psql -v ON_ERROR_STOP=1 -f teardown.sql
--
-- The table stays, since services still insert into it. Once they don't:
--     DROP PROCEDURE outbox.retain; DROP FUNCTION outbox.publish, outbox.emit;
--     DROP TABLE outbox.messages, outbox.dead_letters, outbox.scheduled, outbox.walpost_seal; DROP SCHEMA outbox;
-- and the login:
--     DROP ROLE walpost;

-- The publication stays as long as there is another slot that may be read with it: a slot does not tell which one that is.

-- Owner --
-- The slot can't be brought back, so whoever may not finish does not begin.
DO $owner$
BEGIN
    SET LOCAL search_path = pg_catalog, pg_temp;
    IF EXISTS (SELECT FROM pg_publication WHERE pubname = 'walpost' AND NOT pg_has_role(pubowner, 'USAGE'))
        AND NOT EXISTS (SELECT FROM pg_replication_slots
                        WHERE plugin = 'pgoutput' AND database = current_database() AND slot_name <> 'walpost') THEN
        RAISE insufficient_privilege USING MESSAGE = (
            SELECT format('publication %I belongs to role %s: tear down as that role', pubname, pubowner::regrole)
            FROM pg_publication WHERE pubname = 'walpost');
    END IF;
END
$owner$;

-- Slot --
SELECT pg_catalog.pg_drop_replication_slot(slot_name) FROM pg_replication_slots
WHERE slot_name = 'walpost' AND database = current_database();

-- Publication --
DO $publication$
BEGIN
    SET LOCAL search_path = pg_catalog, pg_temp;
    IF EXISTS (SELECT FROM pg_replication_slots WHERE plugin = 'pgoutput' AND database = current_database()) THEN
        RAISE NOTICE USING MESSAGE = (
            SELECT 'the publication stays: these slots may be read with it: ' || string_agg(quote_ident(slot_name), ', ')
            FROM pg_replication_slots WHERE plugin = 'pgoutput' AND database = current_database());
    ELSE
        DROP PUBLICATION IF EXISTS walpost;
    END IF;
END
$publication$;
