-- +goose Up

-- Why the Storage service's provider is away; '' while it is not, or if nothing was said.
ALTER TABLE provider_report
    ADD COLUMN error_class       text NOT NULL DEFAULT '',
    ADD COLUMN error_message     text NOT NULL DEFAULT '',
    ADD COLUMN error_fingerprint text NOT NULL DEFAULT '';

-- +goose Down
ALTER TABLE provider_report DROP COLUMN error_class, DROP COLUMN error_message, DROP COLUMN error_fingerprint;
