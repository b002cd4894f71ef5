"""Participants of the comparison, each a process in its own environment that speaks JSON lines."""
