-- +goose Up

-- Which directory or bucket holds the storages: the id that migrate wrote into it.
-- written: the place is known to have it. '' before the first migrate of this version.
CREATE TABLE provider_identity (
    only_row boolean NOT NULL PRIMARY KEY DEFAULT true CHECK (only_row),
    id       text    NOT NULL DEFAULT '',
    written  boolean NOT NULL DEFAULT false,
    CONSTRAINT written_if_known CHECK (id <> '' OR NOT written)
);
INSERT INTO provider_identity DEFAULT VALUES;

-- Why the gate is not closed, as the last call or probe told; null: not known, or it is closed.
ALTER TABLE provider_gate ADD COLUMN error_class text, ADD COLUMN error text;

-- +goose Down
ALTER TABLE provider_gate DROP COLUMN error_class, DROP COLUMN error;
DROP TABLE provider_identity;
