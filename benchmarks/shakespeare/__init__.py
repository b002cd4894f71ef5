"""Tiny Shakespeare beside nanoGPT: the yardstick, ours, and who runs them."""
