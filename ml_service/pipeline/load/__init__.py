"""Load: ask a service or an engine as many clients would, and measure what they would feel."""
