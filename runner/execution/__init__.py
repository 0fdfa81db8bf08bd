"""Running one script on one leased sandbox: lease, session, launcher, log, attempt."""
