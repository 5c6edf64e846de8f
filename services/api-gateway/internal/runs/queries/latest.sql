-- latest: one page of run ids, the newest first.
SELECT id FROM ci_runs WHERE id < @before ORDER BY id DESC LIMIT @limit
