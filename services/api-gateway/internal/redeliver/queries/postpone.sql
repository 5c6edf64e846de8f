UPDATE ci_webhook_sources SET next_look = greatest(next_look, clock_timestamp() + @wait::interval) WHERE source = @source
