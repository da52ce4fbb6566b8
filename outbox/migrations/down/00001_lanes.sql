-- Reverts 00001_lanes.sql. Lanes stay.
DROP FUNCTION outbox_create_lane(text);
