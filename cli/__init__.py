"""The `mazevault` command."""
