"""What a Primary needs beside its tables: environments, authorities, channel keys, server certificate, roles, administrator."""

from __future__ import annotations

from accounts.organizations import ensure_default_organization
from accounts.setup import ensure_admin, ensure_folded_addresses, ensure_system_roles
from failover.transitions import ensure_states
from gateways import generation, identity, routes, told_principals
from orchestrator.environment import Settings
from orchestrator.listener import ensure_server_certificate, refuse_unfit_files
from vault import succession


def set_up(node: Settings) -> bool:
    """Create what is missing; True when that was the administrator. Raises `ValueError` for an unusable password file."""
    routes.ensure_environments(node.gateway_environments)
    ensure_states(node.gateway_environments)
    succession.ensure_authorities(node.gateway_environments)
    ensure_system_roles()
    ensure_folded_addresses()
    ensure_default_organization()
    generation.look()
    identity.ensure_keys()
    told_principals.tell_again_after_a_change()
    if node.tls_enabled:
        refuse_unfit_files(node.tls_directory)
    ensure_server_certificate(node.tls_directory)
    return ensure_admin(node.admin_email, node.admin_password_file)
