-- +goose Up

-- How many steps of a retry have failed in a row: the next one waits for longer each time.
ALTER TABLE group_retry ADD COLUMN IF NOT EXISTS failures integer NOT NULL DEFAULT 0;

-- +goose Down
ALTER TABLE group_retry DROP COLUMN failures;
