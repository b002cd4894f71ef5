"""Measurements: every figure in the README is printed by a script here."""
