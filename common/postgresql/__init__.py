"""Django's PostgreSQL backend with a pool of connections for each lane (`common.lanes`)."""
