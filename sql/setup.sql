-- Walpost: the outbox table, its function, its publication, its grants and its slot.
--
-- Run it as the owner-to-be of the table, as often as you like:
--
--     psql -v ON_ERROR_STOP=1 -f setup.sql        (not with --single-transaction: see the slot below)
--
-- `walpost setup` runs this very file. It needs, once, from whoever administers the server:
--
--     wal_level = logical                                  in postgresql.conf, then a restart
--     GRANT CREATE ON DATABASE <database> TO <owner>;      for the schema and the publication
--     ALTER ROLE <owner> REPLICATION;                      for the slot
--     CREATE ROLE walpost LOGIN REPLICATION PASSWORD ...;  the relay's own login
--
-- A superuser needs none of these; the role is then made here, without a password, so that nobody can
-- log in with one until you set it: ALTER ROLE walpost PASSWORD '...';

BEGIN;

-- Whoever may make functions in a schema of your search_path must not be called in your name.
SET LOCAL search_path = pg_catalog, pg_temp;

-- One set-up at a time; a second one waits here and then finds everything made.
DO $lock$ BEGIN PERFORM pg_advisory_xact_lock(hashtext('outbox.messages')); END $lock$;

-- Table -------------------------------------------------------------------------------------------------
-- A row is a message. Services only INSERT; nothing ever updates it. Delete rows whenever you like, even
-- in the transaction that inserted them: the relay reads the log, not the table.

CREATE SCHEMA IF NOT EXISTS outbox;

CREATE TABLE IF NOT EXISTS outbox.messages (
    id             uuid        NOT NULL DEFAULT gen_random_uuid(),
    topic          text        NOT NULL,
    key            text,                                   -- order holds within a key; null spreads
    payload        json,                                   -- json keeps the very bytes; null is a tombstone
    event_type     text,
    headers        jsonb       NOT NULL DEFAULT '{}',
    correlation_id text,
    created_at     timestamptz NOT NULL DEFAULT now(),

    CONSTRAINT messages_pkey PRIMARY KEY (id),
    -- What Kafka would refuse is refused here, where the service can still be told.
    CONSTRAINT messages_topic_is_valid
        CHECK (topic ~ '^[a-zA-Z0-9._-]{1,249}$' AND topic NOT IN ('.', '..')),
    CONSTRAINT messages_headers_is_an_object
        CHECK (jsonb_typeof(headers) = 'object')
);

-- Function ----------------------------------------------------------------------------------------------
-- SELECT outbox.publish('orders', '{"order": 17}', key => 'customer-4');
-- It runs with the caller's rights: whoever may insert may publish. The id is made here and not by the table, since
-- reading it back would take the right to select.

CREATE OR REPLACE FUNCTION outbox.publish(
    topic          text,
    payload        json,
    key            text  DEFAULT NULL,
    event_type     text  DEFAULT NULL,
    headers        jsonb DEFAULT '{}',
    correlation_id text  DEFAULT NULL
) RETURNS uuid
LANGUAGE plpgsql VOLATILE SECURITY INVOKER
AS $publish$
DECLARE
    made uuid := pg_catalog.gen_random_uuid();
BEGIN
    INSERT INTO outbox.messages (id, topic, payload, key, event_type, headers, correlation_id)
    VALUES (made, $1, $2, $3, $4, coalesce($5, '{}'), $6);
    RETURN made;
END
$publish$;

-- The same without a table -------------------------------------------------------------------------------
-- SELECT outbox.emit('orders', '{"order": 17}', key => 'customer-4');
-- It takes the same and makes the same record, but writes the event into the log and nowhere else: no row, nothing to
-- clean up, nothing to vacuum. Like a row it is sent if and when its transaction commits, at its place among the
-- rows. Only whom you grant it may call it: GRANT EXECUTE ON FUNCTION outbox.emit TO <service>;

CREATE OR REPLACE FUNCTION outbox.emit(
    topic          text,
    payload        json,
    key            text  DEFAULT NULL,
    event_type     text  DEFAULT NULL,
    headers        jsonb DEFAULT '{}',
    correlation_id text  DEFAULT NULL
) RETURNS uuid
LANGUAGE plpgsql VOLATILE SECURITY DEFINER SET search_path = pg_catalog, pg_temp
AS $emit$
DECLARE
    id uuid := gen_random_uuid();
    seal uuid;
BEGIN
    -- The same that the table checks.
    IF topic IS NULL OR topic !~ '^[a-zA-Z0-9._-]{1,249}$' OR topic IN ('.', '..') THEN
        RAISE check_violation USING MESSAGE = format('%L is no topic', topic);
    END IF;
    IF jsonb_typeof(coalesce(headers, '{}')) <> 'object' THEN
        RAISE check_violation USING MESSAGE = 'headers must be a JSON object';
    END IF;
    SELECT secret INTO STRICT seal FROM outbox.walpost_seal;
    -- Pieced together as text, so that the payload keeps its very bytes. No payload at all is a tombstone.
    PERFORM pg_logical_emit_message(true, 'walpost.emit:outbox.messages', convert_to(
        '{"seal":' || to_json(seal)
        || ',"id":' || to_json(id)
        || ',"topic":' || to_json(topic)
        || ',"key":' || coalesce(to_json(key)::text, 'null')
        || ',"event_type":' || coalesce(to_json(event_type)::text, 'null')
        || ',"headers":' || coalesce(headers, '{}')::text
        || ',"correlation_id":' || coalesce(to_json(correlation_id)::text, 'null')
        || ',"created_at":' || (extract(epoch FROM transaction_timestamp()) * 1000000)::bigint
        || CASE WHEN payload IS NULL THEN '' ELSE ',"payload":' || payload::text END
        || '}', 'UTF8'));
    RETURN id;
END
$emit$;

REVOKE ALL ON FUNCTION outbox.emit(text, json, text, text, jsonb, text) FROM PUBLIC;

-- Dead letters ------------------------------------------------------------------------------------------
-- Messages that can't be sent, and those of the same key that came after them, when the relay runs with
-- `--on-refusal dead-letter`. The relay writes here; `walpost dead-letters` lists, replays and discards.
-- A letter is open until it is done; done ones stay for a day, so that a repeat of the log finds them.

CREATE TABLE IF NOT EXISTS outbox.dead_letters (
    slot           name        NOT NULL,                   -- whose relay parked it
    commit_lsn     pg_lsn      NOT NULL,                   -- where it stands in the log: header walpost.lsn
    index          bigint      NOT NULL,                   -- and walpost.index
    id             uuid,                                   -- from here on the message, byte for byte
    topic          text,
    key            bytea,
    payload        bytea,
    event_type     text,
    headers        bytea,
    correlation_id text,
    created_at     timestamptz,
    partition      integer,                                -- where the row itself says it
    unfit_column   text,                                   -- a column that could not be read, and its value
    unfit_value    bytea,
    error          text        NOT NULL,                   -- why it was parked
    attempts       integer     NOT NULL,                   -- 0 when it only follows an earlier one of its key
    parked_at      timestamptz NOT NULL DEFAULT now(),
    requested_at   timestamptz,                            -- somebody asked to replay it
    replay_lsn     pg_lsn,                                 -- how far the log was then; with replay_index,
    replay_index   bigint,                                 -- the position under which it is sent again
    done_at        timestamptz,
    outcome        text,

    CONSTRAINT dead_letters_pkey PRIMARY KEY (slot, commit_lsn, index),
    CONSTRAINT dead_letters_outcome_is_known
        CHECK ((done_at IS NULL) = (outcome IS NULL) AND outcome IN ('sent', 'discarded'))
);

-- A table of an earlier version lacks a column. Looked at first, since altering waits for whoever uses the table.
DO $upgrade$
BEGIN
    IF NOT EXISTS (SELECT FROM pg_attribute
                   WHERE attrelid = 'outbox.dead_letters'::regclass AND attname = 'partition') THEN
        ALTER TABLE outbox.dead_letters ADD COLUMN partition integer;
    END IF;
END
$upgrade$;

-- Scheduled ---------------------------------------------------------------------------------------------
-- Rows that are to be sent later, where the outbox has a column that says when (`--map-due`; in the table above, a column
-- scheduled_at if you add one). The relay moves them here, and at that time into the log again. A released row stays for a
-- day, so that a repeat of the log finds it. To cancel one, and not by a DELETE, which a repeat of the log would undo:
-- UPDATE outbox.scheduled SET released_at = now(), content = NULL WHERE id = '...' AND released_at IS NULL;

CREATE TABLE IF NOT EXISTS outbox.scheduled (
    slot        name        NOT NULL,                      -- whose relay holds it
    commit_lsn  pg_lsn      NOT NULL,                      -- where the row stands in the log
    index       bigint      NOT NULL,
    id          text        NOT NULL,                      -- the message's id
    due         timestamptz NOT NULL,                      -- may be changed
    source      text        NOT NULL,                      -- the table that it was inserted into
    content     json,                                      -- its columns; none once it is released
    mark        text,                                      -- of a replayed row: when that was asked for
    held_at     timestamptz NOT NULL DEFAULT now(),
    released_at timestamptz,

    CONSTRAINT scheduled_pkey PRIMARY KEY (slot, commit_lsn, index, id)
);

CREATE INDEX IF NOT EXISTS scheduled_due ON outbox.scheduled (slot, due, commit_lsn, index) WHERE released_at IS NULL;
CREATE INDEX IF NOT EXISTS scheduled_released ON outbox.scheduled (slot, released_at) WHERE released_at IS NOT NULL;

-- Seal --------------------------------------------------------------------------------------------------
-- The server lets everybody who may log in write messages into the log. Those that are events bear this secret, which
-- only their writers and the relay may read; the relay passes any other over.

CREATE TABLE IF NOT EXISTS outbox.walpost_seal (
    secret uuid    NOT NULL DEFAULT gen_random_uuid(),
    single boolean NOT NULL DEFAULT true,

    CONSTRAINT walpost_seal_pkey PRIMARY KEY (single),
    CONSTRAINT walpost_seal_is_single CHECK (single)
);

INSERT INTO outbox.walpost_seal DEFAULT VALUES ON CONFLICT DO NOTHING;

-- Publication -------------------------------------------------------------------------------------------
-- Inserts only, so that deleting rows costs the relay nothing. It must exist before the slot: a slot
-- remembers the catalog as of its own creation.

DO $publication$
BEGIN
    IF NOT EXISTS (SELECT FROM pg_publication WHERE pubname = 'walpost') THEN
        CREATE PUBLICATION walpost FOR TABLE outbox.messages
            WITH (publish = 'insert', publish_via_partition_root = true);
    ELSIF NOT EXISTS (
        SELECT FROM pg_publication_rel r JOIN pg_publication p ON p.oid = r.prpubid
        WHERE p.pubname = 'walpost' AND r.prrelid = 'outbox.messages'::regclass
    ) AND NOT (SELECT puballtables FROM pg_publication WHERE pubname = 'walpost') THEN
        ALTER PUBLICATION walpost ADD TABLE outbox.messages;
    END IF;
END
$publication$;

-- Grants ------------------------------------------------------------------------------------------------
-- The relay reads the log through the slot, and writes nothing but dead letters and rows for later. Writers need only:
--     GRANT USAGE ON SCHEMA outbox TO <service>;  GRANT INSERT ON outbox.messages TO <service>;

DO $grants$
BEGIN
    IF NOT EXISTS (SELECT FROM pg_roles WHERE rolname = 'walpost') THEN
        IF (SELECT rolsuper FROM pg_roles WHERE rolname = current_user) THEN
            BEGIN
                CREATE ROLE walpost LOGIN REPLICATION;
            EXCEPTION WHEN duplicate_object OR unique_violation THEN
                NULL;  -- made by another set-up in this very moment
            END;
        ELSE
            RAISE NOTICE 'there is no role walpost, and only an administrator can make one: CREATE ROLE walpost LOGIN REPLICATION PASSWORD ''...'';';
            RETURN;
        END IF;
    END IF;
    GRANT USAGE ON SCHEMA outbox TO walpost;
    GRANT SELECT ON outbox.messages TO walpost;
    GRANT SELECT ON outbox.walpost_seal TO walpost;
    GRANT SELECT, INSERT, UPDATE, DELETE ON outbox.dead_letters TO walpost;
    GRANT SELECT, INSERT, UPDATE, DELETE ON outbox.scheduled TO walpost;
END
$grants$;

COMMIT;

-- Slot --------------------------------------------------------------------------------------------------
-- From here on the server keeps the log until the relay has published it. Last, and outside the
-- transaction above, because a slot can't be made by a transaction that has written. It waits for
-- transactions that are already writing. On 17 and later it is a failover slot, which a standby can keep.

DO $slot$
BEGIN
    SET LOCAL search_path = pg_catalog, pg_temp;
    IF EXISTS (SELECT FROM pg_replication_slots WHERE slot_name = 'walpost') THEN
        RETURN;
    END IF;
    IF current_setting('server_version_num')::int >= 170000 THEN
        EXECUTE $$SELECT pg_create_logical_replication_slot('walpost', 'pgoutput', false, false, true)$$;
    ELSE
        PERFORM pg_create_logical_replication_slot('walpost', 'pgoutput');
    END IF;
EXCEPTION WHEN duplicate_object THEN
    NULL;  -- made by another set-up in this very moment
END
$slot$;
