"""Measurements: every figure in README and docs is printed by a script here."""
