-- +goose NO TRANSACTION
-- +goose Up

-- A copy of the sagas that need attention, in rows so narrow and so close together that
-- all of them are counted in a few milliseconds, vacuumed or not. Triggers maintain it, also
-- for replicas of older versions; sagas without errors pay for two comparisons.
CREATE TABLE IF NOT EXISTS saga_failure (
    id                uuid        PRIMARY KEY REFERENCES signup_saga ON DELETE CASCADE,
    member_id         uuid        NOT NULL,
    state             text        NOT NULL,
    generation        bigint      NOT NULL,
    error_class       text        NOT NULL,
    error_fingerprint text        NOT NULL,
    retried           boolean     NOT NULL,
    created_at        timestamptz NOT NULL,
    updated_at        timestamptz NOT NULL
);
CREATE INDEX IF NOT EXISTS saga_failure_at ON saga_failure (updated_at);

-- +goose StatementBegin
CREATE OR REPLACE FUNCTION note_saga_failure() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    IF NEW.error_class = '' THEN
        DELETE FROM saga_failure WHERE id = NEW.id;
    ELSE
        INSERT INTO saga_failure (id, member_id, state, generation, error_class, error_fingerprint, retried, created_at, updated_at)
        VALUES (NEW.id, NEW.member_id, NEW.state, NEW.generation, NEW.error_class, NEW.error_fingerprint, NEW.retried, NEW.created_at, NEW.updated_at)
        ON CONFLICT (id) DO UPDATE SET state = excluded.state, generation = excluded.generation, error_class = excluded.error_class,
            error_fingerprint = excluded.error_fingerprint, retried = excluded.retried, updated_at = excluded.updated_at;
    END IF;
    RETURN NULL;
END $$;
-- +goose StatementEnd
CREATE OR REPLACE TRIGGER saga_failed AFTER INSERT ON signup_saga
    FOR EACH ROW WHEN (NEW.error_class <> '') EXECUTE FUNCTION note_saga_failure();
CREATE OR REPLACE TRIGGER saga_failure_changed AFTER UPDATE ON signup_saga
    FOR EACH ROW WHEN (OLD.error_class <> '' OR NEW.error_class <> '') EXECUTE FUNCTION note_saga_failure();

-- Sagas that failed before. The locks, taken in the usual order, keep a saga that recovers
-- meanwhile from being recorded.
INSERT INTO saga_failure (id, member_id, state, generation, error_class, error_fingerprint, retried, created_at, updated_at)
SELECT id, member_id, state, generation, error_class, error_fingerprint, retried, created_at, updated_at
FROM signup_saga WHERE error_class <> '' ORDER BY id FOR NO KEY UPDATE
ON CONFLICT (id) DO NOTHING;
DROP INDEX CONCURRENTLY IF EXISTS signup_saga_failed_at;

-- The actions of one operator of one kind. An interrupted build is started again.
DROP INDEX CONCURRENTLY IF EXISTS admin_audit_actor_action;
CREATE INDEX CONCURRENTLY admin_audit_actor_action ON admin_audit (actor, action, id);

-- +goose Down
DROP INDEX admin_audit_actor_action;
CREATE INDEX signup_saga_failed_at ON signup_saga (updated_at) WHERE error_class <> '';
DROP TRIGGER saga_failure_changed ON signup_saga;
DROP TRIGGER saga_failed ON signup_saga;
DROP FUNCTION note_saga_failure();
DROP TABLE saga_failure;
