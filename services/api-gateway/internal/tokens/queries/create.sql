-- create: no row when it would have ended already.
INSERT INTO ci_tokens (name, hash, hint, scope, repository, created_by, expires_at)
SELECT @name, @hash, @hint, @scope, @repository, @created_by, @expires_at
WHERE  @expires_at::timestamptz IS NULL OR @expires_at > clock_timestamp()
RETURNING id::text, name, hint, scope, repository::text, created_at, created_by, expires_at, last_used_at, revoked_at, revoked_by
