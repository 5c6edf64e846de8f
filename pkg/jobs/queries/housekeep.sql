-- housekeep: the log's partitions for the next fortnight.
SELECT ci_make_log_days(14)
