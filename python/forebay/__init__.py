"""forebay: a PostgreSQL connection pooler, configured and scripted in Python.

What users write against is exported here; everything else may change between versions.
"""

from forebay._engine import version as _version
from forebay.api.secret_source import SecretRequest, secret_source

__all__ = ["SecretRequest", "__version__", "secret_source"]

__version__ = _version()
