-- +goose Up

-- retried: an operator has retried the current step.
ALTER TABLE signup_saga ADD COLUMN retried boolean NOT NULL DEFAULT false;
UPDATE signup_saga SET error_fingerprint = error_class WHERE error_class <> '' AND error_fingerprint = '';

-- subject: the object of an action, besides or instead of a saga.
ALTER TABLE admin_audit
    ALTER COLUMN saga_id DROP NOT NULL,
    ADD COLUMN subject text NOT NULL DEFAULT '',
    ADD CONSTRAINT about_something CHECK (saga_id IS NOT NULL OR subject <> '');
CREATE INDEX admin_audit_actor ON admin_audit (actor, id);
CREATE INDEX admin_audit_action ON admin_audit (action, id);

-- Group retries. due_at: when the next step may be taken; NULL: nothing is left to do.
CREATE TABLE group_retry (
    id              uuid        PRIMARY KEY,
    actor           text        NOT NULL,
    reason          text        NOT NULL CHECK (reason <> ''),
    filter          jsonb       NOT NULL,
    rate            integer     NOT NULL CHECK (rate > 0),
    stop_after      integer     NOT NULL CHECK (stop_after > 0),
    state           text        NOT NULL DEFAULT 'running' CHECK (state IN ('running', 'finished', 'stopped', 'cancelled')),
    stopped_because text        NOT NULL DEFAULT '',
    steps           integer     NOT NULL DEFAULT 0,
    matched         integer     NOT NULL,
    released        integer     NOT NULL DEFAULT 0,
    succeeded       integer     NOT NULL DEFAULT 0,
    failed          integer     NOT NULL DEFAULT 0,
    skipped         integer     NOT NULL DEFAULT 0,
    unsettled       integer     NOT NULL DEFAULT 0 CHECK (unsettled >= 0),
    remaining       integer     NOT NULL CHECK (remaining >= 0),
    due_at          timestamptz DEFAULT now(),
    created_at      timestamptz NOT NULL DEFAULT now(),
    finished_at     timestamptz,
    CONSTRAINT nobody_is_forgotten CHECK (matched = remaining + unsettled + succeeded + failed + skipped),
    CONSTRAINT stopped_for_a_reason CHECK ((state = 'stopped') = (stopped_because <> '')),
    CONSTRAINT running_goes_on CHECK ((state = 'running') = (finished_at IS NULL) AND (state <> 'running' OR due_at IS NOT NULL))
);
CREATE INDEX group_retry_due ON group_retry (due_at) WHERE due_at IS NOT NULL;

-- The frozen sets: sagas that a retry may still release, and released ones whose outcome is
-- unknown; counted ones are deleted. generation: at the freeze, and once released, that of
-- the release. No foreign keys: a set is written in one statement.
CREATE TABLE group_retry_item (
    retry_id   uuid    NOT NULL,
    released   boolean NOT NULL DEFAULT false,
    saga_id    uuid    NOT NULL,
    generation bigint  NOT NULL,
    PRIMARY KEY (retry_id, released, saga_id)
);

-- What the Storage service last reported about its provider.
CREATE TABLE provider_report (
    only_row    boolean     PRIMARY KEY DEFAULT true CHECK (only_row),
    state       text        NOT NULL DEFAULT 'closed' CHECK (state IN ('closed', 'open')),
    version     bigint      NOT NULL DEFAULT 0,
    changed_at  timestamptz NOT NULL DEFAULT '-infinity',
    reported_at timestamptz
);
INSERT INTO provider_report DEFAULT VALUES;

-- +goose Down
DROP TABLE provider_report, group_retry_item, group_retry;
DROP INDEX admin_audit_actor, admin_audit_action;
ALTER TABLE admin_audit DROP CONSTRAINT about_something, DROP COLUMN subject;
ALTER TABLE signup_saga DROP COLUMN retried;
