-- +goose NO TRANSACTION
-- +goose Up

-- The sagas that need attention once more, in rows so narrow that all of them are counted
-- in a few milliseconds, vacuumed or not. The trigger keeps them also for replicas of
-- older versions; sagas without errors pay for two comparisons.
CREATE TABLE IF NOT EXISTS saga_failure (
    saga_id     uuid        PRIMARY KEY REFERENCES signup_saga ON DELETE CASCADE,
    state       text        NOT NULL,
    fingerprint text        NOT NULL,
    retried     boolean     NOT NULL,
    failed_at   timestamptz NOT NULL
);
CREATE INDEX IF NOT EXISTS saga_failure_at ON saga_failure (failed_at);

-- +goose StatementBegin
CREATE OR REPLACE FUNCTION note_saga_failure() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    IF NEW.error_class = '' THEN
        DELETE FROM saga_failure WHERE saga_id = NEW.id;
    ELSE
        INSERT INTO saga_failure (saga_id, state, fingerprint, retried, failed_at)
        VALUES (NEW.id, NEW.state, NEW.error_fingerprint, NEW.retried, NEW.updated_at)
        ON CONFLICT (saga_id) DO UPDATE SET state = excluded.state, fingerprint = excluded.fingerprint, retried = excluded.retried, failed_at = excluded.failed_at;
    END IF;
    RETURN NULL;
END $$;
-- +goose StatementEnd
CREATE OR REPLACE TRIGGER saga_failed AFTER INSERT ON signup_saga
    FOR EACH ROW WHEN (NEW.error_class <> '') EXECUTE FUNCTION note_saga_failure();
CREATE OR REPLACE TRIGGER saga_failure_changed AFTER UPDATE ON signup_saga
    FOR EACH ROW WHEN (OLD.error_class <> '' OR NEW.error_class <> '') EXECUTE FUNCTION note_saga_failure();

-- Those that failed before. Their locks, taken in the order that everybody takes them in,
-- keep one that is mended meanwhile from being noted.
INSERT INTO saga_failure (saga_id, state, fingerprint, retried, failed_at)
SELECT id, state, error_fingerprint, retried, updated_at FROM signup_saga WHERE error_class <> '' ORDER BY id FOR NO KEY UPDATE
ON CONFLICT (saga_id) DO NOTHING;
DROP INDEX CONCURRENTLY IF EXISTS signup_saga_failed_at;

-- What one operator did of one kind. A build that was cut short is begun again.
DROP INDEX CONCURRENTLY IF EXISTS admin_audit_actor_action;
CREATE INDEX CONCURRENTLY admin_audit_actor_action ON admin_audit (actor, action, id);

-- +goose Down
DROP INDEX admin_audit_actor_action;
CREATE INDEX signup_saga_failed_at ON signup_saga (updated_at) WHERE error_class <> '';
DROP TRIGGER saga_failure_changed ON signup_saga;
DROP TRIGGER saga_failed ON signup_saga;
DROP FUNCTION note_saga_failure();
DROP TABLE saga_failure;
