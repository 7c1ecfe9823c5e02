"""Runs the roles as processes, on the servers of the settings or on the local stack, and prepares those servers.

It imports from every package below, and never from the agents, which are independent of it: ``bootstrap`` loads the agent of a
role by the role's name at run time. Commands import the modules that load models or agents (``supervisor``, ``bootstrap``,
``setup``, ``up``) where they need them.
"""

from streams.worker.local_stack import connected

__all__ = ["connected"]
