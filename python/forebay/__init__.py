"""forebay: a PostgreSQL connection pooler, configured and scripted in Python.

What users write against is exported here; everything else may change between versions.
"""

from forebay._engine import version as _version

__all__ = ["__version__"]

__version__ = _version()
