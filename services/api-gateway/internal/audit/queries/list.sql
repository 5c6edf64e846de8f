-- list: a page of what was done, the newest first.
SELECT id::text, at, principal, action, subject, repository, details
FROM   audit_log
WHERE  id < @before
ORDER  BY audit_log.id DESC -- not the text
LIMIT  @limit
