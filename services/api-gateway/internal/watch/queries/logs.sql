-- logs: what several logs hold from a position on, in one statement for everybody who follows one. A position is the run, its
-- job, the attempt, the next byte, and the number of the chunk that holds it (0 while unknown).
-- ended is judged in the same snapshot as the chunks are read: an ended attempt without chunks has been read to its end.
-- A job that is not of this run gives no row.
SELECT p.n,
       j.attempt > p.attempt OR (j.attempt = p.attempt AND NOT ci_is_held(j.status)) OR ci_is_final(j.status) AS ended,
       c.seq, c.byte_offset, c.byte_count, c.data
FROM   unnest(@runs::bigint[], @jobs::bigint[], @attempts::integer[], @offsets::bigint[], @seqs::integer[])
           WITH ORDINALITY AS p (run_id, job_id, attempt, byte_offset, seq, n)
JOIN   ci_jobs j ON j.id = p.job_id AND j.run_id = p.run_id
JOIN   ci_runs r ON r.id = j.run_id
LEFT   JOIN LATERAL (
    SELECT l.seq, l.byte_offset, l.byte_count, l.data
    FROM   ci_logs l
    WHERE  l.log_day = r.log_day AND l.job_id = p.job_id AND l.attempt = p.attempt
    AND    l.seq >= p.seq AND l.byte_offset + l.byte_count > p.byte_offset
    ORDER  BY l.seq
    LIMIT  @chunks
) AS c ON true
ORDER  BY p.n, c.seq
