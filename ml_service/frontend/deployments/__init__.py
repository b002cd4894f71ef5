"""Deployments: what answers, what is tried beside it, how it came about."""
