-- +goose Up
SELECT outbox_create_lane('essential');
SELECT outbox_create_lane('nonessential');

CREATE TABLE storage (
    member_id        uuid        PRIMARY KEY,
    saga_id          uuid        NOT NULL,
    generation       bigint      NOT NULL CHECK (generation >= 1),
    desired          text        NOT NULL CHECK (desired IN ('present', 'absent')),
    status           text        NOT NULL CHECK (status IN ('pending', 'ready', 'absent', 'rejected')),
    quota_bytes      bigint      NOT NULL CHECK (quota_bytes >= 0),
    attempts         integer     NOT NULL DEFAULT 0 CHECK (attempts >= 0),
    outage_attempts  integer     NOT NULL DEFAULT 0 CHECK (outage_attempts >= 0),
    next_attempt_at  timestamptz,
    lease_token      uuid,
    lease_until      timestamptz,
    last_error_class text        CHECK (last_error_class IN ('transient', 'outage', 'throttled', 'rejected', 'poison')),
    last_error       text,
    version          bigint      NOT NULL DEFAULT 1 CHECK (version >= 1),
    created_at       timestamptz NOT NULL DEFAULT now(),
    updated_at       timestamptz NOT NULL DEFAULT now(),
    CONSTRAINT settled_as_desired CHECK (status NOT IN ('ready', 'absent') OR (status = 'absent') = (desired = 'absent')),
    CONSTRAINT due_while_pending CHECK ((status = 'pending') = (next_attempt_at IS NOT NULL)),
    CONSTRAINT whole_lease CHECK ((lease_token IS NULL) = (lease_until IS NULL)),
    CONSTRAINT whole_error CHECK ((last_error_class IS NULL) = (last_error IS NULL)),
    CONSTRAINT rejected_with_error CHECK (status <> 'rejected' OR last_error IS NOT NULL)
);

CREATE INDEX storage_due ON storage (next_attempt_at) WHERE status = 'pending';

-- Messages that can never be applied. No foreign key: the ids in them may not exist.
CREATE TABLE dead_letter (
    fingerprint text        PRIMARY KEY,
    subject     text        NOT NULL,
    saga_id     uuid,
    generation  bigint      NOT NULL,
    reason      text        NOT NULL,
    headers     json        NOT NULL,
    body        bytea       NOT NULL,
    seen        bigint      NOT NULL DEFAULT 1,
    first_seen  timestamptz NOT NULL DEFAULT now(),
    last_seen   timestamptz NOT NULL DEFAULT now()
);

-- The fault of the provider, for demonstrations: one row for all replicas.
CREATE TABLE provider_fault (
    one         boolean          PRIMARY KEY DEFAULT true CHECK (one),
    mode        text             NOT NULL CHECK (mode IN ('none', 'outage', 'slow', 'flaky', 'reject', 'hang')),
    probability double precision NOT NULL CHECK (probability BETWEEN 0 AND 1),
    latency_ms  integer          NOT NULL CHECK (latency_ms BETWEEN 0 AND 60000)
);
INSERT INTO provider_fault (mode, probability, latency_ms) VALUES ('none', 0, 0);
