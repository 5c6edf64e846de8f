-- tally: count what has ended for the statistics.
SELECT ci_tally(@limit)
