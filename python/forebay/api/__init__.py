"""What users write against. Exported by `forebay` itself; nothing here imports the rest of the package."""
