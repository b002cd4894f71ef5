"""Our words: settings, errors, types and the bundle format, on which all rooms agree."""
