"""Mechanisms that know nothing of this service and could be pasted into another project."""
