"""A file for each piece of software: where it and its suite come from, and how the suite is run."""
