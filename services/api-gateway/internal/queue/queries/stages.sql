-- stages: who takes jobs from which state and holds them in which, with the slots of those that give signs of life. Of several
-- states that a stage may take jobs from, it is the one declared last: a stage that is put before it takes over the others.
SELECT s.name, s.takes::text AS takes, s.holds::text AS holds, count(w.id)::integer AS workers, coalesce(sum(w.slots), 0)::integer AS slots, now() AS now
FROM  (SELECT DISTINCT ON (t.role, t.to_status) replace(substr(t.role, length('lockstep_') + 1), '_', '-') AS name, t.from_status AS takes, t.to_status AS holds
       FROM   ci_transitions t
       WHERE  ci_is_held(t.to_status) AND NOT ci_is_held(t.from_status)
       ORDER  BY t.role, t.to_status, t.from_status DESC) AS s
LEFT   JOIN ci_workers w ON w.stage = s.name AND w.dead_at IS NULL AND w.beat_at > clock_timestamp() - w.lease
GROUP  BY s.name, s.takes, s.holds
ORDER  BY s.takes
