"""The database: numbered migrations and one store a subject, with all SQL of the project.

Its modules import from ``schemas`` only; the service imports the stores by their modules.
"""

from sql.database import open_pool
from sql.settings import PostgresSettings
from sql.twin_repository import TwinRepository

__all__ = ["PostgresSettings", "TwinRepository", "open_pool"]
