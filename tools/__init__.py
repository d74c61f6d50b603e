"""The commands, and what they alone need."""
