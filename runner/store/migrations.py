"""The tables, as migration steps. A released step never changes; new steps are appended."""

from __future__ import annotations

from typing import Final

_FIRST: Final = (
    # `number` is the order of submission: a clock may be set back. `marker` is encrypted, and NULL as soon as nobody
    # needs it. `request` is a client's own name for the job.
    """
    CREATE TABLE job (
        number INTEGER PRIMARY KEY AUTOINCREMENT,
        id TEXT NOT NULL UNIQUE,
        state TEXT NOT NULL CHECK (state IN ('queued', 'starting', 'running', 'settled', 'finished')),
        submitted REAL NOT NULL,
        priority INTEGER NOT NULL,
        trust_key TEXT NOT NULL,
        expires REAL,
        cancelled_by TEXT,
        outcome TEXT,
        output INTEGER,
        closing TEXT,
        request TEXT UNIQUE,
        request_digest BLOB,
        marker BLOB
    ) STRICT
    """,
    # The job itself, encrypted, until it is settled. In a table of its own: it may have 64 MiB, and each move of a job
    # writes a whole row.
    """
    CREATE TABLE content (
        job INTEGER PRIMARY KEY REFERENCES job ON DELETE CASCADE,
        sealed BLOB NOT NULL
    ) STRICT
    """,
    "CREATE INDEX job_waiting ON job (priority, trust_key, number) WHERE state = 'queued'",
    "CREATE INDEX job_expires ON job (expires) WHERE state = 'queued' AND expires IS NOT NULL",
    "CREATE INDEX job_unwanted ON job (number) WHERE state = 'queued' AND cancelled_by IS NOT NULL",
    "CREATE INDEX job_active ON job (trust_key) WHERE state IN ('starting', 'running')",
    "CREATE INDEX job_finished ON job (number) WHERE state = 'finished'",
    """
    CREATE TABLE event (
        sequence INTEGER PRIMARY KEY,
        job INTEGER NOT NULL REFERENCES job ON DELETE CASCADE,
        at REAL NOT NULL,
        state TEXT NOT NULL
    ) STRICT
    """,
    "CREATE INDEX event_job ON event (job)",
    # The waiting jobs of one trust key and one priority. A lane exists while it has jobs; the lowest turn is next.
    """
    CREATE TABLE lane (
        priority INTEGER NOT NULL,
        trust_key TEXT NOT NULL,
        turn INTEGER NOT NULL UNIQUE,
        PRIMARY KEY (priority, trust_key)
    ) STRICT
    """,
    "CREATE INDEX lane_next ON lane (priority DESC, turn)",
    """
    CREATE TABLE lease (
        sequence INTEGER PRIMARY KEY AUTOINCREMENT,
        attempt TEXT NOT NULL UNIQUE,
        token BLOB NOT NULL
    ) STRICT
    """,
    """
    CREATE TABLE token (
        id TEXT PRIMARY KEY,
        digest BLOB NOT NULL,
        name TEXT NOT NULL,
        scopes TEXT NOT NULL,
        created REAL NOT NULL,
        expires REAL
    ) STRICT
    """,
)

_STEPS: Final = (
    # The progress of a job's steps, as JSON. Live progress is not written: until the job is settled, all steps wait.
    "ALTER TABLE job ADD COLUMN steps TEXT",
)
_HOLD: Final = (
    """
    CREATE TABLE hold (
        one INTEGER PRIMARY KEY CHECK (one = 1),
        by TEXT NOT NULL,
        since REAL NOT NULL
    ) STRICT
    """,
)
"""Holds a row while no waiting job may start, also over restarts."""

_RETRIES: Final = (
    # How often the job was put back into the queue after a start. `output` and `closing` are then those of its last
    # start.
    "ALTER TABLE job ADD COLUMN retries INTEGER NOT NULL DEFAULT 0",
)

_DELIVERIES: Final = (
    """
    CREATE TABLE delivery (
        sequence INTEGER PRIMARY KEY AUTOINCREMENT,
        job TEXT NOT NULL,
        receiver TEXT NOT NULL,
        body BLOB NOT NULL,
        created REAL NOT NULL,
        tries INTEGER NOT NULL DEFAULT 0,
        due REAL,
        problem TEXT NOT NULL DEFAULT ''
    ) STRICT
    """,
    "CREATE INDEX delivery_due ON delivery (receiver, due)",
)
"""Webhook messages that are still to be sent; one without `due` was given up. A message is not tied to its job's row,
so that it is sent even if the job is forgotten before."""

_UPLOADS: Final = (
    # The archive that was sent with a job, for as long as the job may need it.
    "ALTER TABLE job ADD COLUMN upload TEXT",
    "CREATE INDEX job_upload ON job (upload) WHERE upload IS NOT NULL",
)

_SANDBOX: Final = (
    # Where the job was last sent. The marker holds both too, but encrypted and only until the job is settled.
    "ALTER TABLE job ADD COLUMN sandbox TEXT",
    "ALTER TABLE job ADD COLUMN profile TEXT",
)

MIGRATIONS: Final = (_FIRST, _STEPS, _HOLD, _RETRIES, _DELIVERIES, _UPLOADS, _SANDBOX)
"""`PRAGMA user_version` counts the finished steps."""
