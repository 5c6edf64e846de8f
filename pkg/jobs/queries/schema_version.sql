-- schema_version: what golang-migrate says of this database.
SELECT version, dirty FROM schema_migrations
