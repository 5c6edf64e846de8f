-- hold: whoever decides second waits here, and then sees what was decided.
SELECT run, delivery_id FROM ci_approvals WHERE id = @id FOR UPDATE
