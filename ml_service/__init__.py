"""The service: the language model that a team owns."""
