"""Answering: from a bundle and a prompt to tokens."""
