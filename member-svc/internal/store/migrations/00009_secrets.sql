-- +goose Up

-- Members who left before idempotency keys were erased with them.
DELETE FROM idempotency_key k USING member m WHERE m.id = k.member_id AND m.username IS NULL;

-- When the session was last used, to the hour; NULL: not since used_at exists.
ALTER TABLE session ADD COLUMN IF NOT EXISTS used_at timestamptz;

-- Sessions of the console that were ended before their time. session_hash: SHA-256 of the cookie.
CREATE TABLE IF NOT EXISTS console_logout (
    session_hash bytea       PRIMARY KEY CHECK (length(session_hash) = 32),
    expires_at   timestamptz NOT NULL
);
CREATE INDEX IF NOT EXISTS console_logout_expiry ON console_logout (expires_at);

-- The audit is append-only. Only the table's owner, which is not the service's role, can
-- drop the trigger.
-- +goose StatementBegin
CREATE OR REPLACE FUNCTION refuse_audit_change() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    RAISE EXCEPTION 'admin_audit is only added to: % is refused', lower(TG_OP)
        USING ERRCODE = 'insufficient_privilege', HINT = 'To delete rows whose time is over, see docs/secrets.md.';
END $$;
-- +goose StatementEnd
CREATE OR REPLACE TRIGGER audit_is_kept BEFORE UPDATE OR DELETE OR TRUNCATE ON admin_audit
    FOR EACH STATEMENT EXECUTE FUNCTION refuse_audit_change();

-- +goose Down
DROP TRIGGER audit_is_kept ON admin_audit;
DROP FUNCTION refuse_audit_change();
DROP TABLE console_logout;
ALTER TABLE session DROP COLUMN used_at;
