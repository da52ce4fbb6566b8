-- name: generate
-- A million signups of the last 40 hours, one after the other in the order of their ids.
-- Of 100, 5 need attention and 2 have left; 20,000 of the last hour are provisioning.
-- Three in five failures are of one kind, the others of 39; one in ten failed within the
-- last hour. Foreign keys hold by construction and are not checked, triggers do not run.
SET LOCAL session_replication_role = replica;
SET LOCAL synchronous_commit = off;

CREATE TEMPORARY TABLE generated ON COMMIT DROP AS
SELECT i, at, state, state IN ('needs_attention', 'withdraw_needs_attention') AS failed, i / 20 AS nth,
       (lpad(to_hex((extract(epoch FROM at) * 1000)::bigint), 12, '0') || '70008000' || lpad(to_hex(i), 12, '0'))::uuid AS id
FROM (SELECT i, now() - make_interval(secs => (1000000 - i) * 0.144) AS at,
             CASE WHEN i % 2000 = 0 THEN 'withdraw_needs_attention' WHEN i % 20 = 0 THEN 'needs_attention'
                  WHEN i > 975000 AND i % 5 <> 0 THEN 'provisioning' WHEN i % 50 = 2 THEN 'withdrawn' WHEN i % 2000 = 3 THEN 'withdrawing' ELSE 'ready' END AS state
      FROM generate_series(1, 1000000) i) s;

INSERT INTO member (id, username, username_key, name_mac, email, plan, password_hash, created_at)
SELECT id, name, name, CASE WHEN left_us THEN sha256(i::text::bytea) END, CASE WHEN NOT left_us THEN 'user' || i || '@example.org' END,
       CASE WHEN i % 1000 = 1 THEN 'pro' WHEN i % 100 = 1 THEN 'plus' ELSE 'free' END,
       CASE WHEN left_us THEN '' ELSE '$argon2id$v=19$m=7168,t=5,p=1$c29tZXNhbHRzb21lc2FsdA$RdescudvJCsgt3ub+b4dWRWJTmaaJObGwRdescudvJC' END, at
FROM (SELECT *, state LIKE 'withdr%' AS left_us, CASE WHEN state NOT LIKE 'withdr%' THEN 'user' || i END AS name FROM generated) g;

-- Open ones are due in an hour: none of them changes while they are read.
INSERT INTO signup_saga (id, member_id, signup_id, state, generation, observed_generation, version, opened_at, commanded_at, due_at,
                         error_class, error_message, error_fingerprint, retried, created_at, updated_at)
SELECT id, id, 'sgn_' || md5(i::text), state, 1, 1, CASE state WHEN 'provisioning' THEN 1 ELSE 2 END, at, at, CASE WHEN state IN ('provisioning', 'withdrawing') THEN now() + interval '1 hour' END,
       CASE WHEN failed THEN 'rejected' ELSE '' END,
       CASE WHEN failed THEN 'create storage ' || id || ': the provider answered 422: quota of the region is exhausted' ELSE '' END,
       CASE WHEN failed THEN 'rejected:' || md5('kind' || kind) ELSE '' END, failed AND nth % 3 = 0, at,
       CASE WHEN failed AND nth % 10 = 7 THEN now() - make_interval(secs => nth % 3600) ELSE at + interval '1 s' END
FROM (SELECT *, CASE WHEN nth % 5 < 3 THEN 0 ELSE 1 + nth / 5 % 39 END AS kind FROM generated) g;

INSERT INTO saga_failure (id, member_id, state, generation, error_class, error_fingerprint, retried, created_at, updated_at)
SELECT id, member_id, state, generation, error_class, error_fingerprint, retried, created_at, updated_at FROM signup_saga WHERE error_class <> '';

INSERT INTO saga_event (saga_id, at, kind, state, version, generation, attempt, detail, message_id)
SELECT id, at + make_interval(secs => n - 1), (ARRAY['signed_up', 'attempt_failed', CASE WHEN failed THEN 'rejected' ELSE 'provisioned' END])[n],
       CASE n WHEN 3 THEN state ELSE 'provisioning' END, CASE n WHEN 3 THEN 2 ELSE 1 END, 1, n - 1, '', CASE WHEN n > 1 THEN id || '-' || n END
FROM generated CROSS JOIN generate_series(1, 3) n;

-- 100,000 acts of ten operators, one in ten about a group.
INSERT INTO admin_audit (at, actor, action, saga_id, subject, reason, before, after)
SELECT at, 'operator' || act % 10, CASE WHEN act % 10 = 3 THEN 'retry_group' WHEN act % 100 = 4 THEN 'withdraw' ELSE 'retried' END,
       CASE WHEN act % 10 <> 3 THEN id END, CASE WHEN act % 10 = 3 THEN 'retry ' || id ELSE '' END, 'generated',
       '{"state": "needs_attention", "generation": 1, "version": 2}', '{"state": "provisioning", "generation": 2, "version": 3}'
FROM (SELECT i / 10 AS act, * FROM generated WHERE i % 10 = 0) g;

-- 199 retries of groups that have ended; one that is running is made by a call.
INSERT INTO group_retry (id, actor, reason, filter, rate, stop_after, state, steps, matched, released, succeeded, remaining, due_at, created_at, finished_at)
SELECT id, 'operator1', 'generated', '{}', 10, 10, 'finished', 20, 1000, 1000, 1000, 0, NULL, at, at + interval '2 minutes'
FROM generated WHERE i % 5000 = 1 AND i > 5000;

-- 500 events that could not be published, among those that could.
WITH event AS (
    INSERT INTO outbox_event_essential (event_id, key, type, headers, payload)
    SELECT gen_random_uuid(), id::text, 'storage.provision', '{}', convert_to(json_build_object('member_id', id, 'saga_id', id, 'generation', 1, 'quota_bytes', 1)::text, 'utf8')
    FROM generated WHERE i % 100 = 1 RETURNING id, event_id, type
)
INSERT INTO outbox_dead_essential (id, event_id, type, error, died_at) SELECT id, event_id, type, 'the broker refused it: message too large', now() FROM event WHERE id % 20 = 0;
