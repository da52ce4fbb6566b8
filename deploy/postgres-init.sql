-- Creates or updates what the services need in Postgres: two databases, and for each a role that owns the schema (the migrate
-- jobs) and one that may only use it (the services). Run it with psql as a superuser. It can be repeated: after an interrupted
-- run, or with new passwords to replace the old ones.

\set ON_ERROR_STOP on
\getenv member_migrator_password MEMBER_MIGRATOR_PASSWORD
\getenv member_app_password MEMBER_APP_PASSWORD
\getenv storage_migrator_password STORAGE_MIGRATOR_PASSWORD
\getenv storage_app_password STORAGE_APP_PASSWORD

-- The server logs statements that fail, and some of these contain passwords.
SET log_min_error_statement = panic;

SELECT format('CREATE ROLE %I', role) FROM unnest(ARRAY['member_migrator', 'member_app', 'storage_migrator', 'storage_app']) AS role
WHERE NOT EXISTS (SELECT FROM pg_roles WHERE rolname = role) \gexec

ALTER ROLE member_migrator LOGIN PASSWORD :'member_migrator_password';
ALTER ROLE member_app LOGIN PASSWORD :'member_app_password';
ALTER ROLE storage_migrator LOGIN PASSWORD :'storage_migrator_password';
ALTER ROLE storage_app LOGIN PASSWORD :'storage_app_password';

-- A server that was killed while it created a database marks it as invalid: it can only be dropped.
SELECT format('DROP DATABASE %I', datname) FROM pg_database WHERE datname IN ('member', 'storage') AND datconnlimit = -2 \gexec

SELECT format('CREATE DATABASE %I OWNER %I TEMPLATE template0 ENCODING ''UTF8''', name, name || '_migrator')
FROM unnest(ARRAY['member', 'storage']) AS name
WHERE NOT EXISTS (SELECT FROM pg_database WHERE datname = name) \gexec

REVOKE ALL ON DATABASE member FROM PUBLIC;
REVOKE ALL ON DATABASE storage FROM PUBLIC;
REVOKE ALL ON DATABASE postgres FROM PUBLIC;
GRANT CONNECT ON DATABASE member TO member_app;
GRANT CONNECT ON DATABASE storage TO storage_app;

\connect member
GRANT USAGE ON SCHEMA public TO member_app;
ALTER DEFAULT PRIVILEGES FOR ROLE member_migrator IN SCHEMA public GRANT SELECT, INSERT, UPDATE, DELETE ON TABLES TO member_app;
ALTER DEFAULT PRIVILEGES FOR ROLE member_migrator IN SCHEMA public GRANT USAGE, SELECT ON SEQUENCES TO member_app;
ALTER DEFAULT PRIVILEGES FOR ROLE member_migrator IN SCHEMA public GRANT EXECUTE ON FUNCTIONS TO member_app;

\connect storage
GRANT USAGE ON SCHEMA public TO storage_app;
ALTER DEFAULT PRIVILEGES FOR ROLE storage_migrator IN SCHEMA public GRANT SELECT, INSERT, UPDATE, DELETE ON TABLES TO storage_app;
ALTER DEFAULT PRIVILEGES FOR ROLE storage_migrator IN SCHEMA public GRANT USAGE, SELECT ON SEQUENCES TO storage_app;
ALTER DEFAULT PRIVILEGES FOR ROLE storage_migrator IN SCHEMA public GRANT EXECUTE ON FUNCTIONS TO storage_app;
