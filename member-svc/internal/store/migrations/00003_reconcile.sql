-- +goose Up

-- Notices of stuck signups on their way to the receiver. attempts counts claims, and
-- next_attempt_at is also the end of the claim. created_at is the event's time.
CREATE TABLE webhook (
    event_id        uuid        PRIMARY KEY,
    body            text        NOT NULL,
    state           text        NOT NULL DEFAULT 'queued' CHECK (state IN ('queued', 'sent', 'dropped')),
    attempts        integer     NOT NULL DEFAULT 0,
    next_attempt_at timestamptz NOT NULL DEFAULT now(),
    created_at      timestamptz NOT NULL,
    error           text        NOT NULL DEFAULT ''
);
CREATE INDEX webhook_due ON webhook (next_attempt_at) WHERE state = 'queued';
CREATE INDEX webhook_age ON webhook (created_at);

-- Which replica compares members with storages, until when, and what the last complete run found.
-- resume_after: a run checks a bounded number of suspicions; the next run continues there.
CREATE TABLE reconciliation (
    only_row     boolean     PRIMARY KEY DEFAULT true CHECK (only_row),
    holder       uuid,
    lease_until  timestamptz NOT NULL DEFAULT '-infinity',
    started_at   timestamptz NOT NULL DEFAULT '-infinity',
    finished_at  timestamptz,
    resume_after text,
    stranded     integer     NOT NULL DEFAULT 0,
    orphans      integer     NOT NULL DEFAULT 0,
    doubles      integer     NOT NULL DEFAULT 0
);
INSERT INTO reconciliation DEFAULT VALUES;

-- Storages without a known owner. They are reported, never deleted: this database may be
-- the one that was restored. No foreign keys: the ids in it do not exist here.
CREATE TABLE quarantine (
    member_id  uuid        PRIMARY KEY,
    saga_id    uuid        NOT NULL,
    generation bigint      NOT NULL,
    status     text        NOT NULL,
    first_seen timestamptz NOT NULL DEFAULT now(),
    last_seen  timestamptz NOT NULL DEFAULT now()
);

-- +goose Down
DROP TABLE quarantine, reconciliation, webhook;
