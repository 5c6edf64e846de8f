-- seen: by GitHub's clock, for ours may differ.
UPDATE ci_webhook_sources SET seen_to = greatest(seen_to, @seen_to) WHERE source = @source
