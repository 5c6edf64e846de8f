SELECT id::text, name, hint, scope, repository::text, created_at, created_by, expires_at, last_used_at, revoked_at, revoked_by
FROM   ci_tokens
WHERE  id = @id
