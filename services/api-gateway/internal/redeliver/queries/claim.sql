-- claim: the right to look at a source, until the next look, and since when; no row: another gateway has it. Nothing is held
-- while GitHub is asked: who dies with it is replaced at the next look.
INSERT INTO ci_webhook_sources AS s (source, next_look)
VALUES (@source, clock_timestamp() + @every::interval)
ON CONFLICT (source) DO UPDATE SET next_look = EXCLUDED.next_look
WHERE  s.next_look <= clock_timestamp()
RETURNING greatest(s.seen_to - @overlap::interval, clock_timestamp() - @window::interval)
