-- +goose Up

-- The trace, as W3C's traceparent, of the command that is followed; '' for none.
ALTER TABLE storage ADD COLUMN traceparent text NOT NULL DEFAULT '';

-- +goose Down
ALTER TABLE storage DROP COLUMN traceparent;
