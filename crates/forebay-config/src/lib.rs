//! Configuration text to a tree with spans.
