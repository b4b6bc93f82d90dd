"""Local stand-ins for outside services, to try the product against. Imported by tests and the launcher only."""
