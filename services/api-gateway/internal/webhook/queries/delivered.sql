-- delivered: the run and the approval that a delivery has led to.
SELECT (SELECT id FROM ci_runs WHERE principal = @principal AND idempotency_key = @delivery_id),
       (SELECT max(id) FROM ci_approvals WHERE delivery_id = @delivery_id)
