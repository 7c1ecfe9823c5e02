"""The Faust agents, one module per worker role; each has ``attach`` and is imported by the name of its role.

They import the packages that do the work, one each, and never each other: they exchange events on topics.
"""
