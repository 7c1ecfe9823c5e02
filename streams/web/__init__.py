"""The web applications: health and metrics of a role's process, and the dashboard of the service.

It imports ``streams.reporting`` and what lies below it, and ``sql``. The dashboard is imported by itself, as
``streams.web.dashboard``, so that the process of a role does without templates.
"""

from streams.web.connections import ConnectionLimits
from streams.web.guard import SECURITY_HEADERS, allowed_names, refuse_host
from streams.web.health import HealthProbe, health_app, serve_app

__all__ = [
    "SECURITY_HEADERS",
    "ConnectionLimits",
    "HealthProbe",
    "allowed_names",
    "health_app",
    "refuse_host",
    "serve_app",
]
