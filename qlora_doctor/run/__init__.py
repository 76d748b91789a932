"""One check is many of one: options, session, scheduler, cache."""
