//! The extension module forebay._engine: conversions only.
