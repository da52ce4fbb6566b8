-- +goose Up

-- The directory or bucket that holds the storages: the id that migrate wrote into it.
-- written: the id is known to be in the place. '' before the first migrate of this version.
CREATE TABLE provider_identity (
    only_row boolean NOT NULL PRIMARY KEY DEFAULT true CHECK (only_row),
    id       text    NOT NULL DEFAULT '',
    written  boolean NOT NULL DEFAULT false,
    CONSTRAINT written_if_known CHECK (id <> '' OR NOT written)
);
INSERT INTO provider_identity DEFAULT VALUES;

-- Why the circuit breaker is not closed, by the last call or probe; null: unknown, or it is closed.
ALTER TABLE provider_gate ADD COLUMN error_class text, ADD COLUMN error text;

-- +goose Down
ALTER TABLE provider_gate DROP COLUMN error_class, DROP COLUMN error;
DROP TABLE provider_identity;
