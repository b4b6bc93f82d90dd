"""The outside world: where secrets of a project are kept in step, and by which rules."""
