-- watch_workers: the living, for the reaper to watch.
SELECT w.id, w.name, w.stage, w.lease, w.beat_at FROM ci_workers w WHERE w.dead_at IS NULL
