-- +goose Up

-- Why the Storage service's provider is away; '' while it is not, or if no reason was reported.
ALTER TABLE provider_report
    ADD COLUMN IF NOT EXISTS error_class       text NOT NULL DEFAULT '',
    ADD COLUMN IF NOT EXISTS error_message     text NOT NULL DEFAULT '',
    ADD COLUMN IF NOT EXISTS error_fingerprint text NOT NULL DEFAULT '';

-- +goose Down
ALTER TABLE provider_report DROP COLUMN error_class, DROP COLUMN error_message, DROP COLUMN error_fingerprint;
