-- +goose Up

-- The trace (W3C traceparent) of the current command; '' for none.
ALTER TABLE storage ADD COLUMN traceparent text NOT NULL DEFAULT '';

-- +goose Down
ALTER TABLE storage DROP COLUMN traceparent;
