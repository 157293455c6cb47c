"""Commands that change something: a file each."""
