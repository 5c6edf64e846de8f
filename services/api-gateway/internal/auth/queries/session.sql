-- session: whose cookie has one of these hashes, unless it has ended, or its token has.
SELECT s.id, s.principal, coalesce(s.token_id, 0), coalesce(s.github_id, 0), coalesce(t.scope, ''), coalesce(t.repository, ''), t.expires_at
FROM   ci_sessions s
LEFT   JOIN ci_tokens t ON t.id = s.token_id
WHERE  s.hash = ANY (@hashes::bytea[]) AND s.ended_at IS NULL AND s.expires_at > clock_timestamp()
AND    (s.token_id IS NULL OR t.revoked_at IS NULL AND (t.expires_at IS NULL OR t.expires_at > clock_timestamp()))
