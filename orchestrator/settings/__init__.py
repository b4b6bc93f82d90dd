"""Django settings: `base` for every node, then one module for each mode, and one for tests."""
