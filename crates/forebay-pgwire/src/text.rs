//! A frame as one line of text.
