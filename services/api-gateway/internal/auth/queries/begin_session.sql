-- begin_session: it ends with its token at the latest. Those that ended long ago go.
WITH gone AS (
    DELETE FROM ci_sessions WHERE expires_at < clock_timestamp() - interval '1 day'
)
INSERT INTO ci_sessions (hash, principal, token_id, github_id, expires_at)
SELECT @hash, @principal, nullif(@token::bigint, 0), nullif(@github::bigint, 0),
       least(clock_timestamp() + @lasts::interval, (SELECT expires_at FROM ci_tokens WHERE id = @token)) -- of NULL and a time the time
