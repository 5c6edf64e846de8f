-- all_ended: no job is claimable, held or blocked. Written so that the partial indexes answer, however many have ended.
SELECT NOT EXISTS (SELECT FROM ci_jobs WHERE status = 'new')
   AND NOT EXISTS (SELECT FROM ci_jobs WHERE status = 'initialized')
   AND NOT EXISTS (SELECT FROM ci_jobs WHERE claim_token IS NOT NULL)
   AND NOT EXISTS (SELECT FROM ci_jobs WHERE status = 'blocked'
                   AND status NOT IN ('new', 'initializing', 'success', 'error', 'failure', 'cancelled', 'skipped'))
