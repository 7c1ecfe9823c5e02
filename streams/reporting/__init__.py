"""Reads the state of the service and renders it: overview, text reports, the report of a retrain, charts, and formats of numbers.

It imports ``streams.monitoring`` and what lies below it, ``engine``, ``sql`` and ``schemas``; it does not import the web. Nothing
is imported here: commands format numbers without loading the engine, which ``overview``, ``text`` and ``retrain_report`` need.
"""

__all__: list[str] = []
