"""SHOW: a file a table. Columns stand in spec/show.toml; a module makes the rows."""
