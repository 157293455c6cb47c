"""What forebay says about itself: log lines and counters."""
