"""What a Primary needs beside its tables: environments, authorities, channel keys, server certificate, roles, administrator."""

from __future__ import annotations

import logging

from accounts import everywhere
from accounts.organizations import ensure_default_organization
from accounts.setup import ensure_admin, ensure_folded_addresses, ensure_system_roles
from common.api import rfc3339
from common.clock import database_now
from failover.transitions import ensure_states
from gateways import generation, identity, routes, told_principals
from integrations import plain_configurations
from orchestrator.environment import Settings
from orchestrator.listener import ensure_server_certificate, refuse_unfit_files
from vault import succession

log = logging.getLogger("mazevault.setup")


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
    plain_configurations.seal()
    if node.production:
        _say_what_counts_everywhere()
    if node.tls_enabled:
        refuse_unfit_files(node.tls_directory)
    ensure_server_certificate(node.tls_directory)
    return ensure_admin(node.admin_email, node.admin_password_file)


def _say_what_counts_everywhere() -> None:
    tokens, last = everywhere.count(database_now())
    if tokens:
        ends = f"gateways take the last of them until {rfc3339(last)}" if last else "gateways refuse them"
        log.warning("%s API tokens have no audience; %s. `manage.py audiences list` names them", tokens, ends)
