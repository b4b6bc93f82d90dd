"""`manage.py setup`: everything a Primary needs beside its tables. Safe to repeat; run it after each upgrade."""

from __future__ import annotations

from typing import Any

from django.conf import settings
from django.core.management.base import BaseCommand, CommandError

from accounts.organizations import ensure_default_organization
from accounts.setup import ensure_admin, ensure_system_roles
from failover.transitions import state_of
from gateways import generation, identity, routes
from orchestrator.listener import ensure_server_certificate
from vault import succession


class Command(BaseCommand):
    help = "Create what is missing: environments, certificate authorities, channel keys, server certificate, administrator."

    def handle(self, *args: Any, **options: Any) -> None:
        node = settings.MAZEVAULT
        routes.ensure_environments(node.gateway_environments)
        for code in node.gateway_environments:
            state_of(code)
        succession.ensure_authorities(node.gateway_environments)
        ensure_system_roles()
        ensure_default_organization()
        generation.look()
        identity.ensure_keys()
        ensure_server_certificate(node.tls_directory)
        try:
            created = ensure_admin(node.admin_email, node.admin_password_file)
        except ValueError as error:
            raise CommandError(str(error)) from error
        if created:
            self.stdout.write(f"administrator {node.admin_email}; the password is in {node.admin_password_file}")
