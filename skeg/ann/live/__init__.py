"""Indexes that change: a log of what was written, the graph of what is new, and the merging of both into segments."""
