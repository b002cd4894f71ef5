"""Monitoring: what Prometheus and Grafana are told is right, and is answered with data."""
