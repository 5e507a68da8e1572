"""Payloads of vectors, and filters over their fields: the grammar, the columns on disk and in memory, evaluation."""
