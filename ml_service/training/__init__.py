"""Learning: a plan, the workflow that runs it, its progress, the export."""
