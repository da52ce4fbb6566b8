-- name: makeLimits
-- What an outbox row is without an outbox: the limit of row W.
CREATE TABLE plain_event (
    id         bigint      GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    event_id   uuid        NOT NULL,
    key        text        NOT NULL,
    type       text        NOT NULL,
    headers    json        NOT NULL,
    payload    bytea       NOT NULL,
    created_at timestamptz NOT NULL DEFAULT now()
);

-- One row without anything beside it: the fastest commit there is.
CREATE TABLE bare (
    id   bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    text text NOT NULL
);

CREATE SCHEMA storage;
