"""Evaluate: rows of one's own, judged, and what was found."""
