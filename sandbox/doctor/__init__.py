"""`sandbox doctor`: is this host fit for sandboxes? Facts are gathered (`gather`, `canary`), then judged (`checks`).

It changes nothing, except for the throw-away sandbox on request.
"""
