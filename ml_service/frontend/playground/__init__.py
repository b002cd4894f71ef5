"""Playground: a prompt, all that can be turned, and the answer as it is made."""
