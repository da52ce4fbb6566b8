-- The tables of a signup as rows W and E compare them: the columns that a signup writes, with fewer checks and indexes than
-- the service has.
CREATE TABLE member (
    id            uuid        PRIMARY KEY,
    username      text        NOT NULL,
    username_key  text        NOT NULL UNIQUE,
    email         text,
    plan          text        NOT NULL CHECK (plan IN ('free', 'plus', 'pro')),
    password_hash text        NOT NULL,
    created_at    timestamptz NOT NULL
);

CREATE TABLE signup_saga (
    id           uuid        PRIMARY KEY,
    member_id    uuid        NOT NULL UNIQUE REFERENCES member,
    signup_id    text        NOT NULL UNIQUE CHECK (length(signup_id) >= 36),
    state        text        NOT NULL CHECK (state IN ('provisioning', 'ready')),
    generation   bigint      NOT NULL CHECK (generation >= 1),
    version      bigint      NOT NULL CHECK (version >= 1),
    opened_at    timestamptz NOT NULL,
    commanded_at timestamptz NOT NULL,
    due_at       timestamptz,
    created_at   timestamptz NOT NULL,
    updated_at   timestamptz NOT NULL
);
CREATE INDEX signup_saga_newest ON signup_saga (created_at DESC, id DESC);
CREATE INDEX signup_saga_unsettled ON signup_saga (state, created_at DESC, id DESC) WHERE state <> 'ready';
CREATE INDEX signup_saga_due ON signup_saga (due_at) WHERE due_at IS NOT NULL;

CREATE TABLE saga_event (
    id         bigint      GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    saga_id    uuid        NOT NULL REFERENCES signup_saga,
    at         timestamptz NOT NULL DEFAULT now(),
    kind       text        NOT NULL,
    state      text        NOT NULL,
    version    bigint      NOT NULL,
    message_id text,
    UNIQUE (saga_id, message_id)
);

-- What an outbox row is without an outbox: the limit of row W.
CREATE TABLE plain_event (
    id         bigint      GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    event_id   uuid        NOT NULL,
    key        text        NOT NULL,
    type       text        NOT NULL,
    headers    json        NOT NULL,
    payload    bytea       NOT NULL,
    created_at timestamptz NOT NULL DEFAULT now()
);

-- One row without anything beside it: the fastest commit there is.
CREATE TABLE bare (
    id   bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    text text NOT NULL
);

-- The table of the Storage service, for the limit and the peers of row E.
CREATE TABLE storage (
    member_id       uuid        PRIMARY KEY,
    saga_id         uuid        NOT NULL,
    generation      bigint      NOT NULL CHECK (generation >= 1),
    desired         text        NOT NULL CHECK (desired IN ('present', 'absent')),
    status          text        NOT NULL CHECK (status IN ('pending', 'ready')),
    quota_bytes     bigint      NOT NULL CHECK (quota_bytes >= 0),
    attempts        integer     NOT NULL DEFAULT 0,
    next_attempt_at timestamptz,
    version         bigint      NOT NULL DEFAULT 1,
    created_at      timestamptz NOT NULL DEFAULT now(),
    updated_at      timestamptz NOT NULL DEFAULT now()
);
CREATE INDEX storage_due ON storage (next_attempt_at) WHERE status = 'pending';
