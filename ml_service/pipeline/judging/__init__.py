"""Judging: how good a model is on somebody's own file, row by row and in sum."""
