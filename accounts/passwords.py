"""Password hashing: Argon2id with parameters of OWASP's second choice, chosen for a two-core machine (19 MiB, 2 passes)."""

from __future__ import annotations

from django.contrib.auth.hashers import Argon2PasswordHasher


class Argon2(Argon2PasswordHasher):
    time_cost = 2
    memory_cost = 19 * 1024
    parallelism = 1
