"""Kafka and PostgreSQL from wheels, without Docker, an installed Java or root: ``with LocalStack(home) as stack:``.

It imports the standard library only; ``python -m deploy.stack`` runs the stack from a shell.

No library serves: testcontainers needs Docker, and packages that start a server from a wheel know only PostgreSQL. Here
both servers share one folder and end with the process that started them.
"""

from deploy.stack.child import StackError, describe_exit
from deploy.stack.jars import fetch_jars
from deploy.stack.local import LocalStack, StackAddresses, has_stack, running_stack
from deploy.stack.part import free_port

__all__ = ["LocalStack", "StackAddresses", "StackError", "describe_exit", "fetch_jars", "free_port", "has_stack", "running_stack"]
