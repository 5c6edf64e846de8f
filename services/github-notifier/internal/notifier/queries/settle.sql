-- settle: write down how telling GitHub of @version went, if the claim is still ours. When the version has moved on
-- meanwhile, the newer one is next, whatever became of the old one; only the wait holds for both.
UPDATE ci_reports
SET    status = CASE WHEN version = @version THEN @outcome ELSE 'pending' END,
       sent_version = CASE WHEN @outcome = 'notified' THEN @version ELSE sent_version END,
       reason = @reason, not_before = clock_timestamp() + @wait::interval,
       claim_token = NULL, deadline_at = NULL
WHERE  id = @id AND claim_token = @token
