"""How we look: a client of the public API only."""
