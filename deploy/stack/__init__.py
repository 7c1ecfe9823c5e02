"""Real Kafka and PostgreSQL out of wheels: no Docker, no Java to install, no root.

``with LocalStack(home) as stack:`` gives both as child processes on loopback; ``python -m deploy.stack`` does it from a shell.
"""

from deploy.stack.child import StackError
from deploy.stack.jars import fetch_jars
from deploy.stack.local import LocalStack, StackAddresses, running_stack
from deploy.stack.part import free_port

__all__ = ["LocalStack", "StackAddresses", "StackError", "fetch_jars", "free_port", "running_stack"]
