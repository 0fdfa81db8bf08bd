"""Children for `sandbox.child` to ask: each does one thing wrong, or obeys."""
