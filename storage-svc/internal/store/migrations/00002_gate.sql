-- +goose Up
-- The circuit breaker and the rate limit between all replicas and the provider. One row; times are by this database's clock.
CREATE TABLE provider_gate (
    one         boolean          PRIMARY KEY DEFAULT true CHECK (one),
    version     bigint           NOT NULL DEFAULT 1,      -- counts changes of state and not_before
    state       text             NOT NULL DEFAULT 'closed' CHECK (state IN ('closed', 'open', 'half-open')),
    failures    integer          NOT NULL DEFAULT 0,      -- closed: unanswered calls in a row; else: probes
    opened_at   timestamptz,                              -- since when it is not closed
    closed_at   timestamptz      NOT NULL DEFAULT 'epoch', -- start of the ramp
    not_before  timestamptz      NOT NULL DEFAULT 'epoch', -- no call or probe before this
    probe_token uuid,                                     -- lease of the storage whose call is the probe
    permits     double precision NOT NULL DEFAULT 0,      -- in the budget at filled_at
    filled_at   timestamptz      NOT NULL DEFAULT 'epoch',
    taken       bigint           NOT NULL DEFAULT 0,      -- permits ever taken: guards the budget
    CONSTRAINT open_since CHECK ((state = 'closed') = (opened_at IS NULL)),
    CONSTRAINT probe_in_hand CHECK ((state = 'half-open') = (probe_token IS NOT NULL))
);
INSERT INTO provider_gate DEFAULT VALUES;

-- Dead letters are listed newest first.
CREATE INDEX dead_letter_first_seen ON dead_letter (first_seen, fingerprint);
