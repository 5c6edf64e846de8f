-- slowest: the jobs, or steps, whose mean is the longest.
SELECT name, step, sum(ended)::bigint AS ended, coalesce(sum(ended) FILTER (WHERE outcome IN ('failure', 'error')), 0)::bigint AS failed,
       round(sum(took_ms) / sum(ended))::bigint AS mean_ms, jsonb_agg(buckets) AS buckets
FROM   ci_tallies
WHERE  repository = @repository AND kind = @kind AND minutes = @minutes AND begins_at >= @since
GROUP  BY name, step
ORDER  BY mean_ms DESC, name, step
LIMIT  10
