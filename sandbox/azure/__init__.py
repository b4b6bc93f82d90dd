"""A local Azure: Entra, Graph, Key Vault, role assignments, the metadata service and workload identity, over HTTPS on loopback.

It checks what Azure checks and can be told to fail. Unmodified Microsoft clients talk to it. It holds no real data and asks for
no password: whoever reaches its port may sign in as anybody of its cast.
"""
