"""The whole product on one machine: PostgreSQL, Valkey, Primary, worker, beat and four gateways as separate processes."""
