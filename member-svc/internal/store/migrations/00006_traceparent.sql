-- +goose Up

-- The trace (W3C traceparent) that caused the newest command; '' for none.
ALTER TABLE signup_saga ADD COLUMN IF NOT EXISTS traceparent text NOT NULL DEFAULT '';

-- The trace of the request that started the group retry.
ALTER TABLE group_retry ADD COLUMN IF NOT EXISTS traceparent text NOT NULL DEFAULT '';

-- +goose Down
ALTER TABLE group_retry DROP COLUMN traceparent;
ALTER TABLE signup_saga DROP COLUMN traceparent;
