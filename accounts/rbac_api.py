"""People, roles, who holds which role where, group mappings and identity providers (client-api B.1)."""

from __future__ import annotations

import uuid
from typing import Any

from rest_framework import serializers
from rest_framework.request import Request
from rest_framework.response import Response

from accounts import directory, granting, idle, own_roles, people, services
from accounts.access import Grant, Principal
from accounts.api import PlaceRow, place_row
from accounts.fields import Id, Moment, Name, Settings, Texts, Words
from accounts.models import GroupMapping, IdentityProvider, Role, RoleGrant, ServiceIdentity, User
from accounts.operations import Signed
from accounts.principals import grant_of, grants_of_account
from accounts.roles import (
    ROLES_READ,
    ROLES_WRITE,
    SETTINGS_READ,
    SETTINGS_WRITE,
    USERS_READ,
    USERS_WRITE,
)
from accounts.tenancy_api import times
from common.api import Text, checked, rfc3339
from common.clock import now
from common.described import described
from common.paging import PAGE, page_if_asked


class PersonWish(serializers.Serializer):
    email = Text(trim_whitespace=False, max_length=254)
    full_name = Name(required=False, allow_blank=True)
    password = Text(trim_whitespace=False, max_length=4096)
    role = Text(required=False, allow_blank=True, max_length=64)


class PersonRow(serializers.Serializer):
    id = serializers.UUIDField()
    email = serializers.CharField()
    full_name = serializers.CharField()
    role = serializers.CharField()
    status = serializers.CharField(help_text="active or disabled")
    created_at = serializers.DateTimeField()


class NewPassword(PersonRow):
    password = serializers.CharField(help_text="shown once; it must be changed at the next sign-in")


class RoleWish(serializers.Serializer):
    name = Name(max_length=64)
    display_name = Name(required=False, allow_blank=True)
    description = Words(required=False)
    permissions = Texts(required=False, allow_null=True)


class RoleRow(serializers.Serializer):
    id = serializers.UUIDField()
    name = serializers.CharField()
    display_name = serializers.CharField()
    description = serializers.CharField()
    permissions = serializers.ListField(child=serializers.CharField())
    is_system_role = serializers.BooleanField()


class GrantWish(serializers.Serializer):
    """Without organization, project and environment the role counts everywhere."""

    role_id = Id()
    organization_id = Id(required=False, allow_null=True, allow_blank=True)
    project_id = Id(required=False, allow_null=True, allow_blank=True)
    environment = Words(required=False, allow_null=True, max_length=100)
    expires_at = Moment(required=False, allow_null=True)


class GrantRow(serializers.Serializer):
    id = serializers.UUIDField()
    user_id = serializers.UUIDField(help_text="of the person or service identity")
    role_id = serializers.UUIDField()
    role = serializers.CharField()
    organization_id = serializers.UUIDField(allow_null=True)
    project_id = serializers.UUIDField(allow_null=True)
    environment = serializers.CharField(allow_null=True)
    expires_at = serializers.DateTimeField(allow_null=True)
    assigned_by_sso = serializers.BooleanField()
    created_at = serializers.DateTimeField()


class ReasonRow(PlaceRow):
    role = serializers.CharField()
    assignment_id = serializers.UUIDField(allow_null=True, help_text="null for the role of the account itself")


class EffectiveRow(serializers.Serializer):
    user_id = serializers.UUIDField()
    permissions = serializers.ListField(child=serializers.CharField(), help_text="held in at least one place")
    everywhere = serializers.ListField(child=serializers.CharField())
    why = ReasonRow(many=True)


class MappingWish(serializers.Serializer):
    group_name = Name()
    role_id = Id()


class MappingRow(serializers.Serializer):
    id = serializers.UUIDField()
    group_name = serializers.CharField(help_text="an App Role value, a group's name or its object id")
    role_id = serializers.UUIDField()


class ProviderWish(serializers.Serializer):
    type = Name(max_length=32)
    name = Name()
    config = Settings(required=False, allow_null=True)
    sync_schedule = Words(required=False, max_length=100)


class ProviderRow(serializers.Serializer):
    id = serializers.UUIDField()
    type = serializers.CharField()
    name = serializers.CharField()
    config = serializers.DictField(help_text="its public fields; all others rest sealed and are never given back")
    sync_schedule = serializers.CharField()
    status = serializers.CharField()
    not_in_force = serializers.ListField(child=serializers.CharField(), help_text="settings without effect, and why")
    created_at = serializers.DateTimeField()
    updated_at = serializers.DateTimeField()


class Users(Signed):
    """Make an account, or list those you may see."""

    permissions = {"POST": USERS_WRITE, "GET": USERS_READ}

    @described(operation_id="createUser", request=PersonWish, responses={201: PersonRow})
    def post(self, request: Request) -> Response:
        user = people.create(checked(PersonWish, request.data), self.by)
        user.refresh_from_db()
        return Response(person_row(user), status=201)

    @described(operation_id="listUsers", parameters=PAGE, responses=PersonRow(many=True))
    def get(self, request: Request) -> Response:
        return Response([person_row(user) for user in page_if_asked(people.visible_users(self.by.principal), request)])


class UserOne(Signed):
    """One account."""

    permissions = {"GET": USERS_READ, "DELETE": USERS_WRITE}

    @described(operation_id="getUser", responses=PersonRow)
    def get(self, request: Request, identifier: uuid.UUID) -> Response:
        return Response(person_row(people.user_seen(self.by.principal, identifier)))

    @described(operation_id="deleteUser", responses={204: None})
    def delete(self, request: Request, identifier: uuid.UUID) -> Response:
        people.delete(identifier, self.by, now())
        return Response(status=204)


class UserDisable(Signed):
    """Stop an account; its sessions and tokens end at once."""

    permissions = {"POST": USERS_WRITE}

    @described(operation_id="disableUser", request=None, responses=PersonRow)
    def post(self, request: Request, identifier: uuid.UUID) -> Response:
        return Response(person_row(people.set_active(identifier, False, self.by, now())))


class UserEnable(Signed):
    """Let a stopped account sign in again."""

    permissions = {"POST": USERS_WRITE}

    @described(operation_id="enableUser", request=None, responses=PersonRow)
    def post(self, request: Request, identifier: uuid.UUID) -> Response:
        return Response(person_row(people.set_active(identifier, True, self.by, now())))


class UserReset(Signed):
    """Give an account a new generated password; its sessions and tokens end at once."""

    permissions = {"POST": USERS_WRITE}

    @described(operation_id="resetUserPassword", request=None, responses=NewPassword)
    def post(self, request: Request, identifier: uuid.UUID) -> Response:
        user, password = people.reset_password(identifier, self.by, now())
        return Response({**person_row(user), "password": password})


class EffectivePermissions(Signed):
    """What somebody may do, and why: which role gives what where. Shows the places whose roles you may read."""

    permissions = {"GET": ROLES_READ}

    @described(operation_id="effectivePermissions", responses=EffectiveRow)
    def get(self, request: Request, identifier: uuid.UUID) -> Response:
        caller = self.by.principal
        user = people.user_seen(caller, identifier)
        return Response(effective_row(caller, user, granting.list_shown(caller, user)))


class _Grants(Signed):
    permissions = {"POST": ROLES_WRITE, "GET": ROLES_READ}

    def holder(self, identifier: uuid.UUID) -> User | ServiceIdentity:
        return people.user_seen(self.by.principal, identifier)

    def give(self, request: Request, identifier: uuid.UUID) -> Response:
        row = granting.grant(self.holder(identifier), checked(GrantWish, request.data), self.by, now())
        row.refresh_from_db()
        return Response(grant_row(row), status=201)

    def show(self, identifier: uuid.UUID) -> Response:
        caller, holder = self.by.principal, self.holder(identifier)
        rows = [grant_row(row) for row in granting.list_shown(caller, holder)]
        own = granting.account_role(holder) if isinstance(holder, User) and ROLES_READ in caller.permissions else None
        return Response([account_row(holder, own), *rows] if own else rows)


class UserRoles(_Grants):
    """Let a person hold a role in a place, or list all they hold; the role of the account itself has the account's id. Nobody
    grants above themselves."""

    @described(operation_id="grantUserRole", request=GrantWish, responses={201: GrantRow})
    def post(self, request: Request, identifier: uuid.UUID) -> Response:
        return self.give(request, identifier)

    @described(operation_id="listUserRoles", responses=GrantRow(many=True))
    def get(self, request: Request, identifier: uuid.UUID) -> Response:
        return self.show(identifier)


class UserRoleOne(Signed):
    """End a person's hold of a role; that of the account itself has the account's id, and leaves a viewer."""

    permissions = {"DELETE": ROLES_WRITE}

    @described(operation_id="withdrawUserRole", responses={204: None})
    def delete(self, request: Request, identifier: uuid.UUID, assignment: uuid.UUID) -> Response:
        granting.withdraw(people.user_seen(self.by.principal, identifier), assignment, self.by)
        return Response(status=204)


class ServiceRoles(_Grants):
    """Let a service identity hold a role in a place, or list what it holds."""

    scoped = False

    def holder(self, identifier: uuid.UUID) -> User | ServiceIdentity:
        return services.service_seen(identifier)

    @described(operation_id="grantServiceRole", request=GrantWish, responses={201: GrantRow})
    def post(self, request: Request, identifier: uuid.UUID) -> Response:
        return self.give(request, identifier)

    @described(operation_id="listServiceRoles", responses=GrantRow(many=True))
    def get(self, request: Request, identifier: uuid.UUID) -> Response:
        return self.show(identifier)


class ServiceRoleOne(Signed):
    """End a service identity's hold of a role."""

    scoped = False
    permissions = {"DELETE": ROLES_WRITE}

    @described(operation_id="withdrawServiceRole", responses={204: None})
    def delete(self, request: Request, identifier: uuid.UUID, assignment: uuid.UUID) -> Response:
        granting.withdraw(services.service_seen(identifier), assignment, self.by)
        return Response(status=204)


class Roles(Signed):
    """Make an own role of known permissions, or list all roles."""

    permissions = {"POST": ROLES_WRITE, "GET": ROLES_READ}

    @described(operation_id="createRole", request=RoleWish, responses={201: RoleRow})
    def post(self, request: Request) -> Response:
        return Response(role_row(directory.create_role(checked(RoleWish, request.data), self.by)), status=201)

    @described(operation_id="listRoles", responses=RoleRow(many=True))
    def get(self, request: Request) -> Response:
        return Response([role_row(role) for role in Role.objects.order_by("-is_system_role", "name")])


class RoleOne(Signed):
    """One role. PUT and DELETE are for own roles: whoever holds it has the change at their next call, and one in use stays."""

    permissions = {"GET": ROLES_READ, "PUT": ROLES_WRITE, "DELETE": ROLES_WRITE}

    @described(operation_id="getRole", responses=RoleRow)
    def get(self, request: Request, identifier: uuid.UUID) -> Response:
        return Response(role_row(own_roles.role_seen(identifier)))

    @described(operation_id="replaceRole", request=RoleWish, responses=RoleRow)
    def put(self, request: Request, identifier: uuid.UUID) -> Response:
        return Response(role_row(own_roles.replace(identifier, checked(RoleWish, request.data), self.by)))

    @described(operation_id="deleteRole", responses={204: None})
    def delete(self, request: Request, identifier: uuid.UUID) -> Response:
        own_roles.delete(identifier, self.by, now())
        return Response(status=204)


class Mappings(Signed):
    """Map an App Role or a security group to a role, or list the mappings."""

    scoped = False
    permissions = {"POST": ROLES_WRITE, "GET": ROLES_READ}

    @described(operation_id="createMapping", request=MappingWish, responses={201: MappingRow})
    def post(self, request: Request) -> Response:
        return Response(mapping_row(directory.create_mapping(checked(MappingWish, request.data), self.by)), status=201)

    @described(operation_id="listMappings", responses=MappingRow(many=True))
    def get(self, request: Request) -> Response:
        return Response([mapping_row(row) for row in GroupMapping.objects.order_by("created_at", "id")])


class MappingOne(Signed):
    """End a mapping."""

    scoped = False
    permissions = {"DELETE": ROLES_WRITE}

    @described(operation_id="deleteMapping", responses={204: None})
    def delete(self, request: Request, identifier: uuid.UUID) -> Response:
        directory.delete_mapping(identifier, self.by)
        return Response(status=204)


class Providers(Signed):
    """Say where people sign in, or list these places."""

    scoped = False
    permissions = {"POST": SETTINGS_WRITE, "GET": SETTINGS_READ}

    @described(operation_id="createIdentityProvider", request=ProviderWish, responses={201: ProviderRow})
    def post(self, request: Request) -> Response:
        return Response(provider_row(directory.create_provider(checked(ProviderWish, request.data), self.by)), status=201)

    @described(operation_id="listIdentityProviders", responses=ProviderRow(many=True))
    def get(self, request: Request) -> Response:
        rows = IdentityProvider.objects.filter(deleted_at=None).order_by("created_at", "id")
        return Response([provider_row(row) for row in rows])


class ProviderOne(Signed):
    """One identity provider; a secret that PUT leaves out of the configuration is kept."""

    scoped = False
    permissions = {"GET": SETTINGS_READ, "PUT": SETTINGS_WRITE, "DELETE": SETTINGS_WRITE}

    @described(operation_id="getIdentityProvider", responses=ProviderRow)
    def get(self, request: Request, identifier: uuid.UUID) -> Response:
        return Response(provider_row(directory.provider_seen(identifier)))

    @described(operation_id="replaceIdentityProvider", request=ProviderWish, responses=ProviderRow)
    def put(self, request: Request, identifier: uuid.UUID) -> Response:
        wish = checked(ProviderWish, request.data)
        return Response(provider_row(directory.replace_provider(identifier, wish, self.by)))

    @described(operation_id="deleteIdentityProvider", responses={204: None})
    def delete(self, request: Request, identifier: uuid.UUID) -> Response:
        directory.delete_provider(identifier, self.by, now())
        return Response(status=204)


def person_row(user: User) -> dict[str, Any]:
    return {
        "id": str(user.id),
        "email": user.email,
        "full_name": user.full_name,
        "role": user.role,
        "status": people.status_of(user),
        "created_at": rfc3339(user.created_at),
    }


def role_row(role: Role) -> dict[str, Any]:
    return {
        "id": str(role.id),
        "name": role.name,
        "display_name": role.display_name,
        "description": role.description,
        "permissions": role.permissions,
        "is_system_role": role.is_system_role,
    }


def grant_row(row: RoleGrant) -> dict[str, Any]:
    return {
        "id": str(row.id),
        "user_id": str(row.user_id or row.service_id),
        "role_id": str(row.role_id),
        "role": row.role.name,
        "organization_id": str(row.organization_id) if row.organization_id else None,
        "project_id": str(row.project_id) if row.project_id else None,
        "environment": row.environment_given or row.environment or None,
        "expires_at": rfc3339(row.expires_at),
        "assigned_by_sso": row.assigned_by_sso,
        "created_at": rfc3339(row.created_at),
    }


def account_row(user: Any, role: Role) -> dict[str, Any]:
    """The role of the account itself as a row among its grants."""
    return {
        "id": str(user.id), "user_id": str(user.id), "role_id": str(role.id), "role": role.name, "organization_id": None,
        "project_id": None, "environment": None, "expires_at": None, "assigned_by_sso": False,
        "created_at": rfc3339(user.created_at),
    }  # fmt: skip


def effective_row(caller: Principal, user: User, grants: Any) -> dict[str, Any]:
    """The role of the account counts everywhere, so only those who read roles everywhere see it."""
    moment = caller.moment
    why: list[tuple[str, str | None, Grant]] = [(row.role.name, str(row.id), grant_of(row)) for row in grants]
    if ROLES_READ in caller.permissions:
        why[:0] = [(user.role, None, grant) for grant in grants_of_account(user.role, user.sso_provider)]
    living = [(role, assignment, grant) for role, assignment, grant in why if grant.lives(moment)]
    seen = Principal(caller.kind, str(user.id), user.email, tuple(grant for _, _, grant in living), moment)
    return {
        "user_id": str(user.id),
        "permissions": sorted(seen.permissions_anywhere),
        "everywhere": sorted(seen.permissions),
        "why": [{"role": role, "assignment_id": assignment, **place_row(grant)} for role, assignment, grant in living],
    }


def mapping_row(mapping: GroupMapping) -> dict[str, Any]:
    return {"id": str(mapping.id), "group_name": mapping.group_display_name, "role_id": str(mapping.role_id)}


def provider_row(provider: IdentityProvider) -> dict[str, Any]:
    return {
        "id": str(provider.id),
        "type": provider.type,
        "name": provider.name,
        "config": provider.config,
        "sync_schedule": provider.sync_schedule,
        "not_in_force": idle.not_in_force(vars(provider), idle.OF_A_PROVIDER),
        "status": provider.status,
        **times(provider),
    }
