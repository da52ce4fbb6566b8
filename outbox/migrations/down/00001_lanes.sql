-- Takes 00001_lanes.sql back. Lanes stay.
DROP FUNCTION outbox_create_lane(text);
