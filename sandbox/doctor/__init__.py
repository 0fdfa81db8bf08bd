"""`sandbox doctor`: is this host fit for sandboxes? Facts are gathered (`gather`, `canary`), then judged (`checks`).

It changes nothing, but for the throw-away sandbox that somebody asks for.
"""
