-- slowest: the jobs, or steps, whose mean is the longest, with their buckets, which are read of these alone.
WITH slowest AS MATERIALIZED (
    SELECT name, step, sum(ended)::bigint AS ended, coalesce(sum(ended) FILTER (WHERE outcome IN ('failure', 'error')), 0)::bigint AS failed,
           round(sum(took_ms) / sum(ended))::bigint AS mean_ms
    FROM   ci_tallies
    WHERE  repository = @repository AND kind = @kind AND minutes = @minutes AND begins_at >= @since
    GROUP  BY name, step
    ORDER  BY mean_ms DESC, name, step
    LIMIT  10
)
SELECT s.name, s.step, s.ended, s.failed, s.mean_ms, t.buckets
FROM   slowest s JOIN ci_tallies t USING (name, step)
WHERE  t.repository = @repository AND t.kind = @kind AND t.minutes = @minutes AND t.begins_at >= @since
ORDER  BY s.mean_ms DESC, s.name, s.step
