"""How we speak: HTTP, its errors and the wiring of the parts."""
