"""Gateway mode: what runs near the workloads."""
