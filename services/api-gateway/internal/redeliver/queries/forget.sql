-- forget: what arrived, by GitHub's word or because it has led to something here, and what is too old to be had again.
DELETE FROM ci_redeliveries d
WHERE  d.source = @source
AND   (d.delivery_id = ANY (@arrived) OR d.failed_at < clock_timestamp() - @window::interval
       OR EXISTS (SELECT FROM ci_runs r WHERE r.principal = 'github' AND r.idempotency_key = d.delivery_id)
       OR EXISTS (SELECT FROM ci_approvals a WHERE a.delivery_id = d.delivery_id))
