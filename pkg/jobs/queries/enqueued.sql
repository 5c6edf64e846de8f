-- enqueued: the run that an idempotency key made, and whether it was the same request.
SELECT id, request_hash IS NOT DISTINCT FROM @request_hash
FROM   ci_runs
WHERE  principal = @principal AND idempotency_key = @idempotency_key
