-- A lane records its owner. Its first relay writes the row; a relay with
-- another stream or source refuses to publish. To move a lane on purpose:
--
--     UPDATE outbox_lane SET stream = 'ORDERS', source = '/shop' WHERE lane = 'essential';

-- +goose Up
CREATE TABLE outbox_lane (
    lane   text PRIMARY KEY,
    stream text NOT NULL UNIQUE,
    source text NOT NULL
);

ALTER FUNCTION outbox_create_lane(text) RENAME TO outbox_create_lane_tables;

-- +goose StatementBegin
CREATE FUNCTION outbox_create_lane(lane text) RETURNS void LANGUAGE plpgsql AS $$
BEGIN
    IF lane IS NULL THEN
        RAISE EXCEPTION 'outbox: the lane has no name: give one, such as ''essential''';
    END IF;
    IF to_regclass(format('%I', 'outbox_event_' || lane)) IS NOT NULL THEN
        RAISE EXCEPTION 'outbox: lane % exists already: create each lane once, in one migration', quote_literal(lane);
    END IF;
    PERFORM outbox_create_lane_tables(lane);
END $$;
-- +goose StatementEnd

-- Drops a lane with everything in it. It refuses while events are unpublished
-- or dead, unless force is true.
-- +goose StatementBegin
CREATE FUNCTION outbox_drop_lane(lane text, force boolean DEFAULT false) RETURNS void LANGUAGE plpgsql AS $$
DECLARE
    events      text := format('%I', 'outbox_event_' || coalesce(lane, ''));
    checkpoints text := format('%I', 'outbox_checkpoint_' || coalesce(lane, ''));
    dead        text := format('%I', 'outbox_dead_' || coalesce(lane, ''));
    unpublished boolean;
    buried      boolean;
BEGIN
    IF lane IS NULL OR to_regclass(events) IS NULL THEN
        RAISE EXCEPTION 'outbox: lane % does not exist', quote_nullable(lane);
    END IF;
    EXECUTE format('LOCK TABLE %s, %s, %s', events, checkpoints, dead); -- open transactions end first
    EXECUTE format($sql$
        SELECT EXISTS (SELECT FROM %1$s e WHERE e.id > c.hi OR EXISTS (
                SELECT FROM json_array_elements(g.gaps) r WHERE e.id BETWEEN (r->>0)::bigint AND (r->>1)::bigint)),
            EXISTS (SELECT FROM %3$s)
        FROM (SELECT * FROM %2$s ORDER BY n DESC LIMIT 1) c JOIN %2$s g ON g.n = coalesce(c.gaps_at, c.n)$sql$,
        events, checkpoints, dead) INTO unpublished, buried;
    IF unpublished AND NOT force THEN
        RAISE EXCEPTION 'outbox: lane % has unpublished events: let its relay publish them, or lose them with outbox_drop_lane(%, true)',
            quote_literal(lane), quote_literal(lane);
    END IF;
    IF buried AND NOT force THEN
        RAISE EXCEPTION 'outbox: lane % has dead events: requeue them, or lose them with outbox_drop_lane(%, true)',
            quote_literal(lane), quote_literal(lane);
    END IF;
    EXECUTE format('DROP TABLE %s, %s, %s', events, checkpoints, dead);
    DELETE FROM outbox_lane l WHERE l.lane = outbox_drop_lane.lane;
END $$;
-- +goose StatementEnd
