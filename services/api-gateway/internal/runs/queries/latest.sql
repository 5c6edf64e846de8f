-- latest: one page of run ids, the newest first, from the next @window runs (of the repository, where one is given). The last of
-- these is there even if it does not fit: the page behind this one begins with it. So no filter reads more than the window.
-- The rows are compared as wholes, and ordered by both columns, because only the repository's own index can do that: with
-- repository = … the planner would sooner walk all runs backward, which is long when the repository's are old.
SELECT id, fits, place
FROM  (
    SELECT r.id,
           row_number() OVER (ORDER BY s.repository DESC, r.id DESC) AS place,
           (@status::text IS NULL OR r.status = @status::text::ci_job_status)
           AND (@event::text IS NULL OR r.event = @event)
           AND (@refs::text[] IS NULL OR r.ref = ANY (@refs))
           AND (@pull_request::integer IS NULL OR r.pull_request = @pull_request) AS fits
    FROM   ci_runs r
    CROSS  JOIN LATERAL (SELECT CASE WHEN @repository::text IS NULL THEN NULL ELSE r.repository::text END) AS s (repository)
    WHERE  CASE WHEN @repository::text IS NULL THEN r.id < @before
                ELSE (r.repository, r.id) < (@repository, @before) AND r.repository >= @repository END
    ORDER  BY s.repository DESC, r.id DESC
    LIMIT  @window
) AS looked
WHERE  fits OR place = @window
LIMIT  @limit -- without an order of its own, which would be made of the whole window: a filter keeps the subquery's
