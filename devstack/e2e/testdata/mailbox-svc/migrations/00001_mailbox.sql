-- +goose Up
SELECT outbox_create_lane('essential');

-- A mailbox is a row: the desired state of the newest command. Rows of members who have left stay, so that no late command makes
-- another mailbox for them.
CREATE TABLE mailbox (
    member_id  uuid        PRIMARY KEY,
    saga_id    uuid        NOT NULL,
    generation bigint      NOT NULL CHECK (generation >= 1),
    desired    text        NOT NULL CHECK (desired IN ('present', 'absent')),
    updated_at timestamptz NOT NULL DEFAULT now()
);

-- +goose Down
DROP TABLE mailbox;
