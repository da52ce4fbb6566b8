-- +goose NO TRANSACTION
-- +goose Up

-- Indexes for operators' queries. Successful signups do not pay for them, and continue while
-- they are built. An interrupted build leaves an invalid index and is started again.
DROP INDEX CONCURRENTLY IF EXISTS signup_saga_failed;
DROP INDEX CONCURRENTLY IF EXISTS signup_saga_failed_at;
DROP INDEX CONCURRENTLY IF EXISTS signup_saga_withdrawn;
CREATE INDEX CONCURRENTLY signup_saga_failed ON signup_saga (error_fingerprint, created_at DESC, id DESC) INCLUDE (updated_at, retried) WHERE error_class <> '';
CREATE INDEX CONCURRENTLY signup_saga_failed_at ON signup_saga (updated_at) WHERE error_class <> '';
CREATE INDEX CONCURRENTLY signup_saga_withdrawn ON signup_saga (created_at DESC, id DESC) WHERE state = 'withdrawn';

-- +goose Down
DROP INDEX signup_saga_failed, signup_saga_failed_at, signup_saga_withdrawn;
