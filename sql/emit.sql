-- Walpost: events without a table. `walpost setup --emit on` runs this after setup.sql.
--
--     SELECT outbox.emit('orders', '{"order": 17}', key => 'customer-4');
--
-- writes the event into the log and nowhere else: no row, nothing to clean up, nothing to vacuum. Like a row it is
-- published if and when its transaction commits, at its place among the rows. Relays must run with `--emit on` before the
-- first event: one that does not passes events over.
--
-- Only whom you grant it may call it: GRANT EXECUTE ON FUNCTION outbox.emit TO <service>; But the server lets
-- everybody write messages of any kind into the log. If not all who may log in shall be able to publish, a superuser
-- takes that back; this function goes on working if its owner is granted it:
--     REVOKE EXECUTE ON FUNCTION pg_logical_emit_message(boolean, text, bytea) FROM PUBLIC;    -- on 17 and later
--     GRANT EXECUTE ON FUNCTION pg_logical_emit_message(boolean, text, bytea) TO <owner>;      -- with one boolean more

BEGIN;

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
BEGIN
    -- The same that the table checks.
    IF topic IS NULL OR topic !~ '^[a-zA-Z0-9._-]{1,249}$' OR topic IN ('.', '..') THEN
        RAISE check_violation USING MESSAGE = format('%L is no topic', topic);
    END IF;
    IF jsonb_typeof(coalesce(headers, '{}')) <> 'object' THEN
        RAISE check_violation USING MESSAGE = 'headers must be a JSON object';
    END IF;
    -- Pieced together as text, so that the payload keeps its very bytes. No payload at all is a tombstone.
    PERFORM pg_logical_emit_message(true, 'walpost.emit:outbox.messages', convert_to(
        '{"id":' || to_json(id)
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

COMMIT;
