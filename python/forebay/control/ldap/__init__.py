"""A small LDAP client (RFC 4511): bind, search, StartTLS. It blocks, and belongs on a thread of its own."""
