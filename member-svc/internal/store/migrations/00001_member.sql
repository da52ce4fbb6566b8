-- +goose Up
SELECT outbox_create_lane('essential');
SELECT outbox_create_lane('nonessential');

CREATE TABLE member (
    id            uuid        PRIMARY KEY,
    username      text        NOT NULL,
    username_key  text        NOT NULL,
    email         text,
    plan          text        NOT NULL CHECK (plan IN ('free', 'plus', 'pro')),
    password_hash text        NOT NULL,
    created_at    timestamptz NOT NULL,
    CONSTRAINT member_username_taken UNIQUE (username_key)
);

-- due_at: when the timer is due next. commanded_at: transaction time of the
-- newest command, equal to created_at of its outbox event.
CREATE TABLE signup_saga (
    id                  uuid        PRIMARY KEY,
    member_id           uuid        NOT NULL UNIQUE REFERENCES member,
    signup_id           text        NOT NULL UNIQUE CHECK (length(signup_id) >= 36),
    state               text        NOT NULL CHECK (state IN ('provisioning', 'ready', 'needs_attention',
                                                              'withdrawing', 'withdraw_needs_attention', 'withdrawn')),
    generation          bigint      NOT NULL CHECK (generation >= 1),
    observed_generation bigint      NOT NULL DEFAULT 0,
    version             bigint      NOT NULL CHECK (version >= 1),
    redrives            integer     NOT NULL DEFAULT 0 CHECK (redrives >= 0),
    retry_open          boolean     NOT NULL DEFAULT false,
    opened_at           timestamptz NOT NULL,
    commanded_at        timestamptz NOT NULL,
    due_at              timestamptz,
    error_class         text        NOT NULL DEFAULT '',
    error_message       text        NOT NULL DEFAULT '',
    error_fingerprint   text        NOT NULL DEFAULT '',
    created_at          timestamptz NOT NULL,
    updated_at          timestamptz NOT NULL,
    CONSTRAINT open_has_timer CHECK (state NOT IN ('provisioning', 'withdrawing') OR due_at IS NOT NULL),
    CONSTRAINT retry_is_open CHECK (NOT retry_open OR state IN ('provisioning', 'withdrawing')),
    CONSTRAINT attention_has_reason CHECK (state NOT IN ('needs_attention', 'withdraw_needs_attention') OR error_class <> '')
);
CREATE INDEX signup_saga_newest ON signup_saga (created_at DESC, id DESC);
CREATE INDEX signup_saga_unsettled ON signup_saga (state, created_at DESC, id DESC) WHERE state NOT IN ('ready', 'withdrawn');
CREATE INDEX signup_saga_due ON signup_saga (due_at) WHERE due_at IS NOT NULL;

-- The timeline. message_id keeps a reply that changed nothing from being recorded twice.
CREATE TABLE saga_event (
    id         bigint      GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    saga_id    uuid        NOT NULL REFERENCES signup_saga,
    at         timestamptz NOT NULL DEFAULT now(),
    kind       text        NOT NULL,
    state      text        NOT NULL,
    version    bigint      NOT NULL,
    generation bigint      NOT NULL,
    attempt    integer     NOT NULL DEFAULT 0,
    detail     text        NOT NULL DEFAULT '',
    actor      text        NOT NULL DEFAULT '',
    message_id text,
    UNIQUE (saga_id, message_id)
);

CREATE TABLE idempotency_key (
    key        text        PRIMARY KEY CHECK (length(key) <= 255),
    member_id  uuid        NOT NULL REFERENCES member,
    body_hmac  bytea       NOT NULL,
    response   bytea       NOT NULL,
    expires_at timestamptz NOT NULL
);
CREATE INDEX idempotency_key_expiry ON idempotency_key (expires_at);
CREATE INDEX idempotency_key_member ON idempotency_key (member_id);

CREATE TABLE admin_audit (
    id      bigint      GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    at      timestamptz NOT NULL DEFAULT now(),
    actor   text        NOT NULL,
    action  text        NOT NULL,
    saga_id uuid        NOT NULL REFERENCES signup_saga,
    reason  text        NOT NULL CHECK (reason <> ''),
    before  jsonb       NOT NULL,
    after   jsonb       NOT NULL
);
CREATE INDEX admin_audit_saga ON admin_audit (saga_id);

-- next_attempt_at is also the end of the sender's lease.
CREATE TABLE mail (
    member_id       uuid        NOT NULL REFERENCES member,
    kind            text        NOT NULL CHECK (kind IN ('welcome')),
    state           text        NOT NULL DEFAULT 'queued' CHECK (state IN ('queued', 'sent', 'dropped')),
    attempts        integer     NOT NULL DEFAULT 0,
    next_attempt_at timestamptz NOT NULL DEFAULT now(),
    created_at      timestamptz NOT NULL DEFAULT now(),
    finished_at     timestamptz,
    error           text        NOT NULL DEFAULT '',
    PRIMARY KEY (member_id, kind)
);
CREATE INDEX mail_due ON mail (next_attempt_at) WHERE state = 'queued';

-- One token bucket for all replicas.
CREATE TABLE redrive_budget (
    only_row    boolean          PRIMARY KEY DEFAULT true CHECK (only_row),
    tokens      double precision NOT NULL CHECK (tokens >= 0),
    refilled_at timestamptz      NOT NULL
);
INSERT INTO redrive_budget (tokens, refilled_at) VALUES (0, now());

-- +goose Down
DROP TABLE redrive_budget, mail, admin_audit, idempotency_key, saga_event, signup_saga, member;
