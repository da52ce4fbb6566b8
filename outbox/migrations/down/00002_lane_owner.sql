-- Reverts 00002_lane_owner.sql. Lanes stay.
DROP FUNCTION outbox_drop_lane(text, boolean);
DROP FUNCTION outbox_create_lane(text);
ALTER FUNCTION outbox_create_lane_tables(text) RENAME TO outbox_create_lane;
DROP TABLE outbox_lane;
