-- note: deliveries that failed. A later attempt of one that is known failed too: its number is as good.
INSERT INTO ci_redeliveries (source, delivery_id, attempt_id, failed_at)
SELECT @source, f.guid, f.attempt, f.at
FROM   unnest(@guids::text[], @attempts::bigint[], @failed_at::timestamptz[]) AS f (guid, attempt, at)
ORDER  BY f.guid
ON CONFLICT (source, delivery_id) DO NOTHING
