"""Data: versions, growth, uploads and what became of them."""
