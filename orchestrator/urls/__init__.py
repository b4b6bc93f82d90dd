"""Routes of each mode."""
