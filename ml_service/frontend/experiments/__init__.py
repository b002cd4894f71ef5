"""Experiments: the table, one of them live, several compared."""
