"""Runs the servers that the service needs: the local stack, and the files for containers, Prometheus and Grafana.

Its Python code imports from ``schemas`` and the standard library; ``deploy.stack`` is the local stack. The
package itself exports nothing.
"""

__all__: list[str] = []
