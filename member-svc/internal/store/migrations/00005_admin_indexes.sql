-- +goose NO TRANSACTION
-- +goose Up

-- What operators look for. Signups that go well pay for none of these, and go on while
-- they are built. A build that was cut short leaves an index that nobody may use, and
-- is begun again.
DROP INDEX CONCURRENTLY IF EXISTS signup_saga_failed;
DROP INDEX CONCURRENTLY IF EXISTS signup_saga_failed_at;
DROP INDEX CONCURRENTLY IF EXISTS signup_saga_withdrawn;
CREATE INDEX CONCURRENTLY signup_saga_failed ON signup_saga (error_fingerprint, created_at DESC, id DESC) INCLUDE (updated_at, retried) WHERE error_class <> '';
CREATE INDEX CONCURRENTLY signup_saga_failed_at ON signup_saga (updated_at) WHERE error_class <> '';
CREATE INDEX CONCURRENTLY signup_saga_withdrawn ON signup_saga (created_at DESC, id DESC) WHERE state = 'withdrawn';

-- +goose Down
DROP INDEX signup_saga_failed, signup_saga_failed_at, signup_saga_withdrawn;
