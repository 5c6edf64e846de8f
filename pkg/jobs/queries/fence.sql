-- fence: is this claim still ours? The row stays locked until the end of the transaction.
SELECT cancel_requested_at IS NOT NULL FROM ci_jobs WHERE id = @job AND claim_token = @token FOR UPDATE
