-- What the captures are about. Run by capture.sh in an empty database, before the slot exists.

-- The outbox, as its users have it.
CREATE SCHEMA outbox;
CREATE TABLE outbox.messages (
    id uuid PRIMARY KEY DEFAULT gen_random_uuid(),
    topic text NOT NULL,
    key text,
    payload json,
    event_type text,
    headers jsonb NOT NULL DEFAULT '{}',
    correlation_id text,
    created_at timestamptz NOT NULL DEFAULT now()
);

-- Columns of types that are not built in, and one whose long values are stored apart.
CREATE SCHEMA shop;
CREATE TYPE shop.mood AS ENUM ('calm', 'wild');
CREATE DOMAIN shop.positive AS integer CHECK (VALUE > 0);
CREATE TABLE shop.things (id integer PRIMARY KEY, mood shop.mood, amount shop.positive, note varchar(40), body text);
-- EXTERNAL: uncompressed, so that three thousand equal letters are long enough to be stored apart.
ALTER TABLE shop.things ALTER COLUMN body SET STORAGE EXTERNAL;

-- One table for each way to identify an old row; shop.things has the default.
CREATE TABLE shop.whole (id integer, word text);
ALTER TABLE shop.whole REPLICA IDENTITY FULL;
CREATE TABLE shop.indexed (id integer, code text NOT NULL);
CREATE UNIQUE INDEX indexed_code ON shop.indexed (code);
ALTER TABLE shop.indexed REPLICA IDENTITY USING INDEX indexed_code;
CREATE TABLE shop.nothing (id integer PRIMARY KEY);
ALTER TABLE shop.nothing REPLICA IDENTITY NOTHING;

CREATE TABLE shop.parts (id integer, year integer, PRIMARY KEY (id, year)) PARTITION BY RANGE (year);
CREATE TABLE shop.parts_old PARTITION OF shop.parts FOR VALUES FROM (2000) TO (2020);
CREATE TABLE shop.parts_new PARTITION OF shop.parts FOR VALUES FROM (2020) TO (2040);

CREATE PUBLICATION walpost FOR TABLE outbox.messages
    WITH (publish = 'insert', publish_via_partition_root = true);
CREATE PUBLICATION everything
    FOR TABLE outbox.messages, shop.things, shop.whole, shop.indexed, shop.nothing, shop.parts
    WITH (publish = 'insert, update, delete, truncate', publish_via_partition_root = true);
