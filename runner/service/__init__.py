"""The service behind `runner serve`: takes jobs, runs each on a leased sandbox, keeps its log and outcome."""
