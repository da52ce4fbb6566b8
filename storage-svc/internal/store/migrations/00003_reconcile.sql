-- +goose Up

-- Which replica compares storages with the provider, until when, and what the last complete
-- run found. resume_after: a run checks a bounded number of suspicions; the next run continues there.
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

-- Resources at the provider that are unknown here or unreadable. They are reported, never deleted:
-- this database may be the one that was restored.
CREATE TABLE quarantine (
    member_id  uuid        PRIMARY KEY,
    state      text        NOT NULL CHECK (state IN ('live', 'orphaned', 'damaged')),
    generation bigint      NOT NULL,
    first_seen timestamptz NOT NULL DEFAULT now(),
    last_seen  timestamptz NOT NULL DEFAULT now()
);

-- +goose Down
DROP TABLE quarantine, reconciliation;
