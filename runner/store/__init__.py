"""What the service keeps in its state folder: a SQLite database, the key that seals its secrets, and logs."""
