"""Configurations of other poolers, as the tree of a forebay.toml."""
