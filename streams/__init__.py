"""The service on Kafka: it answers simulations, ingests outcomes, monitors and retrains models, and has a command line.

Its packages import from ``schemas``, ``engine``, ``sql`` and ``deploy``, and from one another only downward. They are
imported by name; nothing is exported here.
"""

__all__: list[str] = []
