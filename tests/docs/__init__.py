"""The documentation: its links lead somewhere, its commands exist, and its tutorial works."""
