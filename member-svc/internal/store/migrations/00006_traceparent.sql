-- +goose Up

-- The trace, as W3C's traceparent, of what the newest command follows from; '' for none.
ALTER TABLE signup_saga ADD COLUMN IF NOT EXISTS traceparent text NOT NULL DEFAULT '';

-- That of the request which began a retry of a group.
ALTER TABLE group_retry ADD COLUMN IF NOT EXISTS traceparent text NOT NULL DEFAULT '';

-- +goose Down
ALTER TABLE group_retry DROP COLUMN traceparent;
ALTER TABLE signup_saga DROP COLUMN traceparent;
