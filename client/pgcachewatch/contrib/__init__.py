"""What frameworks need beyond the client: `contrib.fastapi`, `contrib.sqlalchemy`, `contrib.django`.

Each module needs its framework installed, and nothing else of the package imports any of them. Not one of them adds to
what the client promises: they keep the framework's own habits (injected sessions, units of work, transactions that have
written) from breaking it.
"""
