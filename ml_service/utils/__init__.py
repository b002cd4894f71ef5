"""Our eyes: logs and telemetry."""
