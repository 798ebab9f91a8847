-- What the order service of the examples keeps. Safe to run again:
--
--     psql "$DATABASE_URL" -v ON_ERROR_STOP=1 -f orders.sql

CREATE TABLE IF NOT EXISTS orders (
    number   bigint  NOT NULL,
    customer text    NOT NULL,
    item     text    NOT NULL,
    quantity integer NOT NULL,

    CONSTRAINT orders_pkey PRIMARY KEY (number),
    CONSTRAINT orders_quantity_is_positive CHECK (quantity > 0)
);

CREATE TABLE IF NOT EXISTS stock (
    item      text    NOT NULL,
    available integer NOT NULL,

    CONSTRAINT stock_pkey PRIMARY KEY (item),
    CONSTRAINT stock_is_not_negative CHECK (available >= 0)
);

INSERT INTO stock (item, available) VALUES ('lamp', 100) ON CONFLICT DO NOTHING;
