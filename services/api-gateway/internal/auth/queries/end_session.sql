-- end_session: somebody signs out.
UPDATE ci_sessions
SET    ended_at = clock_timestamp()
WHERE  hash = ANY (@hashes::bytea[]) AND ended_at IS NULL
