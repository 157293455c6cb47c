"""What tests stand on: a real PostgreSQL, a real forebay, a client that speaks frames, a network that misbehaves."""
