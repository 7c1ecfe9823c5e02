"""The Faust agents, one module per worker role; each has ``attach`` and is imported by the name of its role.

They import the packages that do the work, and never each other: they exchange events on topics. The package exports nothing: a
process loads the module of its own role only.
"""

__all__: list[str] = []
