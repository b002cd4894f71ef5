"""The page in a real browser, on a real service with a real model."""
