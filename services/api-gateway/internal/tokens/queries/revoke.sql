UPDATE ci_tokens
SET    revoked_at = clock_timestamp(), revoked_by = @revoked_by
WHERE  id = @id AND revoked_at IS NULL
