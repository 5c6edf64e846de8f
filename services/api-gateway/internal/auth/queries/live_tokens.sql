-- live_tokens: which of these have not ended.
SELECT id
FROM   ci_tokens
WHERE  id = ANY (@tokens::bigint[]) AND revoked_at IS NULL AND (expires_at IS NULL OR expires_at > clock_timestamp())
