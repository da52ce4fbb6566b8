-- The outbox keeps three append-only tables per lane. A service creates a lane
-- with one call in its own migration:
--
--     SELECT outbox_create_lane('essential');

-- +goose Up
-- +goose StatementBegin
CREATE FUNCTION outbox_create_lane(lane text) RETURNS void LANGUAGE plpgsql AS $$
BEGIN
    IF lane !~ '^[a-z][a-z0-9_]{0,39}$' THEN
        RAISE EXCEPTION 'outbox: % is not a lane name (want ^[a-z][a-z0-9_]{0,39}$)', quote_literal(lane);
    END IF;

    -- Column order matters: defaults are evaluated in this order, so a
    -- transaction has its xid before it draws an id. The proof that no
    -- committed event is skipped rests on that, and on CACHE 1.
    EXECUTE format($ddl$
        CREATE TABLE %1$I (
            xid        xid8        NOT NULL DEFAULT pg_current_xact_id(),
            id         bigint      GENERATED ALWAYS AS IDENTITY (CACHE 1) PRIMARY KEY,
            event_id   uuid        NOT NULL,
            key        text        NOT NULL,
            type       text        NOT NULL,
            headers    json        NOT NULL,
            payload    bytea       NOT NULL,
            created_at timestamptz NOT NULL DEFAULT now()
        )$ddl$, 'outbox_event_' || lane);

    -- One row per published batch, heartbeat, take-over or rewind.
    --   leader      who wrote the row and may write the next; NULL: handed over
    --   hi          every id up to hi was read; all of them are published but the gaps
    --   gaps        ranges [[from, to, stamp], ...] of ids up to hi that were not seen yet;
    --               stamp 0 stands for this row's own xid. NULL: as in row gaps_at
    --   stream_id   creation time of the stream; NULL: no stream seen yet
    --   stream_seq  the stream's last sequence after this row's batch
    --   system_id   the cluster that wrote the row: in another one, restored from a
    --               dump, the xids of its gaps mean nothing
    EXECUTE format($ddl$
        CREATE TABLE %1$I (
            n            bigint      PRIMARY KEY,
            leader       uuid,
            xid          xid8        NOT NULL DEFAULT pg_current_xact_id(),
            hi           bigint      NOT NULL,
            gaps         json,
            gaps_at      bigint,
            stream_id    timestamptz,
            stream_seq   bigint      NOT NULL,
            published_at timestamptz NOT NULL DEFAULT clock_timestamp(),
            system_id    bigint      NOT NULL DEFAULT (pg_control_system()).system_identifier,
            CHECK ((gaps IS NULL) <> (gaps_at IS NULL))
        )$ddl$, 'outbox_checkpoint_' || lane);
    EXECUTE format('INSERT INTO %I (n, hi, gaps, stream_seq) VALUES (0, 0, ''[]'', 0)', 'outbox_checkpoint_' || lane);

    -- Events with a defect of their own; everything else waits for the broker.
    EXECUTE format($ddl$
        CREATE TABLE %1$I (
            id       bigint      PRIMARY KEY,
            event_id uuid        NOT NULL,
            type     text        NOT NULL,
            error    text        NOT NULL,
            died_at  timestamptz NOT NULL DEFAULT clock_timestamp()
        )$ddl$, 'outbox_dead_' || lane);
END $$;
-- +goose StatementEnd
