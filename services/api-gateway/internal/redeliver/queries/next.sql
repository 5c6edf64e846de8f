-- next: the failed delivery that has waited longest, if it is due; and when it may be asked for once more: after 4, 16 … looks.
UPDATE ci_redeliveries
SET    tries = tries + 1, next_try = clock_timestamp() + @every::interval * 4 ^ (tries + 1)
WHERE  (source, delivery_id) = (
    SELECT source, delivery_id FROM ci_redeliveries
    WHERE  source = @source AND tries < @most AND next_try <= clock_timestamp()
    ORDER  BY next_try LIMIT 1 FOR UPDATE SKIP LOCKED)
RETURNING delivery_id, attempt_id, tries
