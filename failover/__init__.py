"""Moving an environment between its primary and its DR gateway."""
