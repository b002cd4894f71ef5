"""Scripts that break a running service on purpose, and fail when a promise is broken."""
