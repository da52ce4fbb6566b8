-- +goose Up

-- copies: how often the text was handed to the mail server without an answer. It counts before the text is sent, so
-- that a crash in between counts, too.
ALTER TABLE mail ADD COLUMN IF NOT EXISTS copies smallint NOT NULL DEFAULT 0;

-- The addresses that had a welcome mail within a day, as keyed HMACs, and the member. No foreign key: a row
-- outlives the member, else an address could be flooded by signing up and leaving again.
CREATE TABLE IF NOT EXISTS mailed_address (
    mac       bytea       PRIMARY KEY CHECK (length(mac) = 32),
    member_id uuid        NOT NULL,
    used_at   timestamptz NOT NULL DEFAULT now()
);
CREATE INDEX IF NOT EXISTS mailed_address_age ON mailed_address (used_at);

-- +goose Down
DROP TABLE mailed_address;
ALTER TABLE mail DROP COLUMN copies;
