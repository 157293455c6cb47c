"""Real software as a second oracle: suites that others wrote, run direct and through forebay, must pass alike.

`make drivers` runs them (`run.py`). A file of `suites/` describes a piece of software, and which of its tests may
differ and why; a line of `registry.py` registers it. Suites and drivers are downloaded when they are run, into
`.cache/drivers`; nothing of them is kept in the repository.
"""
