"""Keeping the secrets of a project and those of an outside vault in step: what to do is decided here, done elsewhere."""
