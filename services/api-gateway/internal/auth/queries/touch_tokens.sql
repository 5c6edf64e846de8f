-- touch_tokens: they have been used. To the minute, so that a busy token is not written with each look.
UPDATE ci_tokens
SET    last_used_at = date_trunc('minute', clock_timestamp())
WHERE  id = ANY (@tokens::bigint[]) AND (last_used_at IS NULL OR last_used_at < date_trunc('minute', clock_timestamp()))
