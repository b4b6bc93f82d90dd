"""Every path of the sandbox. A further service is a module with a ROUTES table of its own, named here."""

from __future__ import annotations

from dataclasses import replace

from sandbox.azure import (
    arm,
    authorize,
    control,
    discovery,
    grants,
    graph,
    imds,
    vault_api,
    vault_certificates,
    vault_keys,
    vault_refusals,
    vault_secrets,
)
from sandbox.azure.aadsts import Aadsts
from sandbox.azure.web import Answer, ApiRefusal, Refusal, Request, Route, json_answer
from sandbox.azure.world import World

ROUTES: tuple[Route, ...] = (
    *control.ROUTES,
    *imds.ROUTES,
    *graph.ROUTES,
    *discovery.ROUTES,
    *authorize.ROUTES,
    *grants.ROUTES,
    *arm.ROUTES,
)
VAULT_ROUTES: tuple[Route, ...] = (*vault_secrets.ROUTES, *vault_keys.ROUTES, *vault_certificates.ROUTES)
"""Served at `https://<vault>.vault.localhost:<port>`; the host name says which vault."""


def answer(world: World, request: Request) -> Answer:
    """The one way in: faults that hit everything first, then the first route that fits."""
    try:
        if vault_api.vault_name(world, request) is not None:
            return _at_a_vault(world, request)
        if not request.path.startswith("/_control/"):
            _refuse_by_fault(world)
        return _routed(ROUTES, world, request)
    except Refusal as refusal:
        return refusal.answer()


def _at_a_vault(world: World, request: Request) -> Answer:
    """Key Vault refuses in its own words. Clients write a slash where they leave the version out."""
    if world.count_down("throttled") or world.count_down("vault_throttled"):
        raise vault_refusals.throttled(world)
    if world.count_down("unavailable") or world.count_down("vault_unavailable"):
        raise vault_refusals.unavailable()
    return _routed(VAULT_ROUTES, world, replace(request, path=request.path.rstrip("/").replace("//", "/")))


def _routed(table: tuple[Route, ...], world: World, request: Request) -> Answer:
    fitting = [(route, parts) for route in table if (parts := route.parts_of(request.path)) is not None]
    if not fitting:
        raise ApiRefusal(404, "NotFound", f"there is nothing at {request.path}")
    for route, parts in fitting:
        if route.method == request.method:
            if not request.secure and not route.plain:
                raise ApiRefusal(400, "HttpsRequired", f"ask for this with https: {world.base_url}{request.path}")
            return route.handle(world, replace(request, parts=parts))
    raise ApiRefusal(405, "MethodNotAllowed", "this path does not take this method")


def _refuse_by_fault(world: World) -> None:
    if world.count_down("throttled"):
        seconds = str(world.faults.retry_after_seconds)
        raise _WithHeaders(Aadsts(90055), {"Retry-After": seconds})
    if world.count_down("unavailable"):
        raise Aadsts(90033)


class _WithHeaders(Refusal):
    def __init__(self, refusal: Refusal, headers: dict[str, str]) -> None:
        super().__init__(str(refusal))
        self._refusal, self._headers = refusal, headers

    def answer(self) -> Answer:
        return replace(self._refusal.answer(), headers=self._headers)


def not_understood(message: str) -> Answer:
    """For a request that cannot be read at all."""
    return json_answer({"error": {"code": "BadRequest", "message": message}}, 400)
