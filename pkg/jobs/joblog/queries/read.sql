-- read: the chunks of one attempt from a byte on. The key finds the first by its number; a reader that goes on knows it.
SELECT seq, byte_offset, byte_count, data
FROM   ci_logs
WHERE  log_day = @log_day AND job_id = @job AND attempt = @attempt
AND    seq >= @seq AND byte_offset + byte_count > @byte_offset
ORDER  BY seq
LIMIT  @chunks
