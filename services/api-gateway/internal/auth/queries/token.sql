-- token: whose secret has this hash, unless it has ended.
SELECT id, scope, coalesce(repository, ''), expires_at
FROM   ci_tokens
WHERE  hash = @hash AND revoked_at IS NULL AND (expires_at IS NULL OR expires_at > clock_timestamp())
