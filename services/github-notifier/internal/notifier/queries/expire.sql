-- expire: what a notifier held past its deadline is anybody's again; it died or stood still, since a call to GitHub ends
-- long before. Whether GitHub was told is not known, so it is told once more.
UPDATE ci_reports
SET    status = 'pending', claim_token = NULL, deadline_at = NULL
WHERE  id = ANY (ARRAY (
           SELECT id FROM ci_reports
           WHERE  status = 'notifying' AND deadline_at <= clock_timestamp()
           ORDER  BY deadline_at, id
           LIMIT  100
           FOR UPDATE SKIP LOCKED))
