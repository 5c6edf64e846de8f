-- leave: a worker ends by itself. What it should still hold is reaped at once.
UPDATE ci_workers SET dead_at = clock_timestamp() WHERE id = @worker AND dead_at IS NULL
