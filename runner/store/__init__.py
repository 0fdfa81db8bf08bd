"""The contents of the service's state folder: a SQLite database, the key that seals its secrets, and logs."""
