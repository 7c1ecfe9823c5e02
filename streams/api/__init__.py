"""The HTTP API and the page, which the role ``web`` serves: it publishes events, and reads what is stored.

One module a subject; each calls the functions that the command of that subject calls. It imports what lies below the workers.
FastAPI is imported by :mod:`streams.api.server`, so that only the process of this role loads it.
"""
