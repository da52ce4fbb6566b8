-- A checkpoint tells in which database cluster it was written. After a dump and
-- restore, or an upgrade, the xids in older checkpoints mean nothing.

-- +goose Up
ALTER FUNCTION outbox_create_lane(text) RENAME TO outbox_create_lane_v1;

-- +goose StatementBegin
CREATE FUNCTION outbox_alter_lane_v2(lane text) RETURNS void LANGUAGE plpgsql AS $$
BEGIN
    EXECUTE format('ALTER TABLE %I ADD COLUMN system_id bigint NOT NULL DEFAULT (pg_control_system()).system_identifier',
        'outbox_checkpoint_' || lane);
END $$;
-- +goose StatementEnd

-- +goose StatementBegin
CREATE FUNCTION outbox_create_lane(lane text) RETURNS void LANGUAGE plpgsql AS $$
BEGIN
    PERFORM outbox_create_lane_v1(lane);
    PERFORM outbox_alter_lane_v2(lane);
END $$;
-- +goose StatementEnd

SELECT outbox_alter_lane_v2(substr(table_name, length('outbox_checkpoint_') + 1))
FROM information_schema.tables
WHERE table_schema = current_schema() AND starts_with(table_name, 'outbox_checkpoint_');

-- +goose Down
-- +goose StatementBegin
DO $$
DECLARE
    t text;
BEGIN
    FOR t IN SELECT table_name FROM information_schema.tables
             WHERE table_schema = current_schema() AND starts_with(table_name, 'outbox_checkpoint_') LOOP
        EXECUTE format('ALTER TABLE %I DROP COLUMN system_id', t);
    END LOOP;
END $$;
-- +goose StatementEnd
DROP FUNCTION outbox_create_lane(text);
DROP FUNCTION outbox_alter_lane_v2(text);
ALTER FUNCTION outbox_create_lane_v1(text) RENAME TO outbox_create_lane;
