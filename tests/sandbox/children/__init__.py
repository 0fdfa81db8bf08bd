"""Children for `sandbox.child` to ask: each does one thing wrong, or does as it is asked."""
