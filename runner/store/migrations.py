"""The tables, as the steps that lead to them. A step that was released never changes; the next one is appended."""

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
    # The job itself, encrypted, until it is settled. Apart: it may have 64 MiB, and a move writes a whole row.
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
    # The jobs of one trust key that wait with one priority. It is there while there are any; the lowest turn is next.
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
    # How far the steps of a job are, as JSON: all of them wait until it is settled, for what is live is not written.
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
"""There is a row while nothing that waits may start, over restarts too."""

_RETRIES: Final = (
    # How often it was put back into the queue after its start. `output` and `closing` are those of the last start then.
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
"""Messages to receivers of webhooks that are still to be sent; without `due`, one was given up. None is tied to its
job's row: it is sent also when the job is forgotten before."""

_UPLOADS: Final = (
    # The archive that was sent with a job, as long as that may need it.
    "ALTER TABLE job ADD COLUMN upload TEXT",
    "CREATE INDEX job_upload ON job (upload) WHERE upload IS NOT NULL",
)

_SANDBOX: Final = (
    # Where it was sent to last. The marker has both too, encrypted, and only until it is settled.
    "ALTER TABLE job ADD COLUMN sandbox TEXT",
    "ALTER TABLE job ADD COLUMN profile TEXT",
)

MIGRATIONS: Final = (_FIRST, _STEPS, _HOLD, _RETRIES, _DELIVERIES, _UPLOADS, _SANDBOX)
"""`PRAGMA user_version` counts the steps that were done."""
