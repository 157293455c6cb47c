"""The console: the statements of its sessions, answered as encoded messages.

`console.Console` is the entry; a command is a file under show/ or command/ and a line in `registry`. Nothing here
touches the engine: what commands need of it is the protocol `backend.Backend`.
"""
