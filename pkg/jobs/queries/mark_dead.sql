-- mark_dead: only if it has not beaten since we looked. It waits for the worker's claims in flight (FOR SHARE), and
-- every beat after it changes no row.
UPDATE ci_workers SET dead_at = clock_timestamp() WHERE id = @worker AND dead_at IS NULL AND beat_at = @beat_at::timestamptz
