-- Run once by the postgres image, with psql, when the volume is empty: two databases, and for each a role that owns the schema
-- (the migrate jobs) and one that may only use it (the services).

\set ON_ERROR_STOP on
\getenv member_migrator_password MEMBER_MIGRATOR_PASSWORD
\getenv member_app_password MEMBER_APP_PASSWORD
\getenv storage_migrator_password STORAGE_MIGRATOR_PASSWORD
\getenv storage_app_password STORAGE_APP_PASSWORD

CREATE ROLE member_migrator LOGIN PASSWORD :'member_migrator_password';
CREATE ROLE member_app LOGIN PASSWORD :'member_app_password';
CREATE ROLE storage_migrator LOGIN PASSWORD :'storage_migrator_password';
CREATE ROLE storage_app LOGIN PASSWORD :'storage_app_password';

CREATE DATABASE member OWNER member_migrator TEMPLATE template0 ENCODING 'UTF8';
CREATE DATABASE storage OWNER storage_migrator TEMPLATE template0 ENCODING 'UTF8';
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
