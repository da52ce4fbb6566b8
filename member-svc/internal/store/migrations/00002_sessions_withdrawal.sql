-- +goose Up

-- The essential step that a saga is at, from 0: the one whose command is open, or was sent last.
ALTER TABLE signup_saga ADD COLUMN step smallint NOT NULL DEFAULT 0 CHECK (step >= 0);

-- A member who left has neither name nor address nor password. name_mac, a keyed
-- HMAC of username_key, keeps the name taken; members of older versions of this
-- program get theirs when they leave. NOT VALID skips the check of existing rows,
-- which the old constraint already covers.
ALTER TABLE member
    ALTER COLUMN username DROP NOT NULL,
    ALTER COLUMN username_key DROP NOT NULL,
    ADD COLUMN name_mac bytea,
    ADD CONSTRAINT member_name_kept UNIQUE (name_mac),
    ADD CONSTRAINT erased_is_all_or_nothing CHECK (
        CASE WHEN username IS NULL THEN username_key IS NULL AND name_mac IS NOT NULL AND email IS NULL AND password_hash = ''
             ELSE username_key IS NOT NULL END) NOT VALID;

-- token_hash: SHA-256 of the bearer, which nobody can guess.
CREATE TABLE session (
    token_hash bytea       PRIMARY KEY CHECK (length(token_hash) = 32),
    member_id  uuid        NOT NULL REFERENCES member,
    created_at timestamptz NOT NULL DEFAULT now(),
    expires_at timestamptz NOT NULL
);
CREATE INDEX session_member ON session (member_id);
CREATE INDEX session_expiry ON session (expires_at);

-- +goose Down
DROP TABLE session;
ALTER TABLE signup_saga DROP COLUMN step;
ALTER TABLE member DROP CONSTRAINT erased_is_all_or_nothing, DROP COLUMN name_mac;
