-- What happens while the slot watches. The tests expect these values in this order.

-- 1. Every field, with text beyond ASCII.
INSERT INTO outbox.messages VALUES (
    '00000000-0000-4000-8000-000000000001', 'orders', 'order-1', '{"total": 12.50, "name": "Łódź 🚲"}',
    'order.placed', '{"traceparent": "00-abc-def-01"}', 'corr-1', '2024-02-29 12:34:56.789012+00');

-- 2. One transaction: nulls, an empty text, an undone savepoint, an insert that is deleted at once.
BEGIN;
INSERT INTO outbox.messages VALUES (
    '00000000-0000-4000-8000-000000000002', 'orders', NULL, NULL, NULL, '{}', NULL, '2024-03-01 00:00:00+00');
SAVEPOINT here;
INSERT INTO outbox.messages VALUES ('00000000-0000-4000-8000-0000000000ff', 'never');
ROLLBACK TO SAVEPOINT here;
INSERT INTO outbox.messages VALUES (
    '00000000-0000-4000-8000-000000000003', 'ключ', '', '[]', '', '{}', '', '1999-12-31 23:59:59.999999+00');
DELETE FROM outbox.messages WHERE id = '00000000-0000-4000-8000-000000000003';
COMMIT;

-- 3. A payload of 20 kB.
INSERT INTO outbox.messages VALUES (
    '00000000-0000-4000-8000-000000000004', 'big', 'k', ('"' || repeat('0123456789', 2000) || '"')::json,
    NULL, '{}', NULL, '2024-03-01 00:00:00+00');

-- 4. A transaction that never was.
BEGIN;
INSERT INTO outbox.messages VALUES ('00000000-0000-4000-8000-0000000000fe', 'never');
ROLLBACK;

-- 5. Logical messages: one in a transaction, one outside of any, one that outlives its rolled back transaction.
BEGIN;
SELECT pg_logical_emit_message(true, 'inside', 'with the commit');
COMMIT;
BEGIN;
SELECT pg_logical_emit_message(false, 'outside', '\x00ff01'::bytea);
ROLLBACK;
SELECT pg_logical_emit_message(false, '', '');

-- 6. The table changes under way.
ALTER TABLE outbox.messages ADD COLUMN tenant integer;
INSERT INTO outbox.messages VALUES (
    '00000000-0000-4000-8000-000000000005', 'orders', 'k', '1', NULL, '{}', NULL, '2024-03-01 00:00:00+00', 7);
ALTER TABLE outbox.messages RENAME COLUMN tenant TO client;
INSERT INTO outbox.messages VALUES (
    '00000000-0000-4000-8000-000000000006', 'orders', 'k', '2', NULL, '{}', NULL, '2024-03-01 00:00:00+00', 8);
ALTER TABLE outbox.messages DROP COLUMN event_type;
INSERT INTO outbox.messages VALUES (
    '00000000-0000-4000-8000-000000000007', 'orders', 'k', '3', '{}', NULL, '2024-03-01 00:00:00+00', 9);

-- 7. Types of our own; then updates with the value stored apart unchanged, with a changed key; then a delete.
INSERT INTO shop.things VALUES (1, 'calm', 5, 'first', repeat('x', 3000));
UPDATE shop.things SET note = 'second' WHERE id = 1;
UPDATE shop.things SET id = 2, mood = 'wild' WHERE id = 1;
DELETE FROM shop.things WHERE id = 2;

-- 8. The other identities.
INSERT INTO shop.whole VALUES (1, 'old'), (2, NULL);
UPDATE shop.whole SET word = 'new' WHERE id = 1;
DELETE FROM shop.whole WHERE id = 2;
INSERT INTO shop.indexed VALUES (1, 'a');
UPDATE shop.indexed SET code = 'b';
DELETE FROM shop.indexed;
INSERT INTO shop.nothing VALUES (1);

-- 9. Rows of partitions, published as rows of their root.
BEGIN;
INSERT INTO shop.parts VALUES (1, 2010), (2, 2030);
COMMIT;

-- 10. Truncation, with and without options.
TRUNCATE shop.things, shop.whole RESTART IDENTITY CASCADE;
TRUNCATE shop.nothing;

-- 11. A transaction that came from elsewhere, with that place's position and time.
SELECT pg_replication_origin_create('walpost_capture');
SELECT pg_replication_origin_session_setup('walpost_capture');
BEGIN;
SELECT pg_replication_origin_xact_setup('A/B0', '2024-05-06 07:08:09.101112+00');
INSERT INTO outbox.messages VALUES (
    '00000000-0000-4000-8000-000000000008', 'orders', 'k', '4', '{}', NULL, '2024-03-01 00:00:00+00', 10);
COMMIT;
SELECT pg_replication_origin_session_reset();
