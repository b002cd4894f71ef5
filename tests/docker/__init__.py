"""The stack of docker-compose.yml, built, started, used and broken with a real engine."""
