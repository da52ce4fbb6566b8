-- +goose Up

-- How many steps of a retry have failed in a row: each time the next one waits longer.
ALTER TABLE group_retry ADD COLUMN IF NOT EXISTS failures integer NOT NULL DEFAULT 0;

-- +goose Down
ALTER TABLE group_retry DROP COLUMN failures;
