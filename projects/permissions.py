"""Who may call an endpoint below a project.

A person needs a role in the project, an API key the project and a scope. What belongs to a project
that the caller may not see does not exist for them (404); what they may see and not do is 403.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any
from uuid import UUID

from rest_framework.exceptions import NotFound
from rest_framework.permissions import BasePermission
from rest_framework.request import Request
from rest_framework.views import APIView

from projects.acting import ApiCredential
from projects.models import Project, ProjectQuerySet
from projects.roles import Role
from projects.throttling import CallerThrottled


@dataclass(frozen=True)
class Need:
    """What an action asks for.

    Args:
        role: the least role of a person.
        scope: the scope of an API key, such as "connections:read"; ``None`` if no key may do it.
    """

    role: Role
    scope: str | None = None


class ProjectScoped(CallerThrottled):
    """For a view whose URL names a project. Beside :class:`ProjectPermission`, which sets them:

    ``project`` the project, ``role`` the person's role in it, or ``None`` for an API key.
    ``needs`` maps each action (or method, on a plain view) to what it asks for.
    """

    needs: Mapping[str, Need] = {}
    required_scopes: Mapping[str, str] = {}
    project: Project
    role: Role | None = None

    def __init_subclass__(cls, **kwargs: Any) -> None:
        super().__init_subclass__(**kwargs)
        cls.required_scopes = {
            action: need.scope for action, need in cls.needs.items() if need.scope is not None
        }

    def need(self, request: Request) -> Need | None:
        """What this request asks for; ``None`` for OPTIONS and a method that will be refused.

        What is not in ``needs`` is the owner's alone, so that a new action is closed until
        somebody opens it.
        """
        method = "GET" if request.method == "HEAD" else str(request.method)
        offered = getattr(self, "http_method_names", ())
        if (
            method == "OPTIONS"
            or method.lower() not in offered
            or not hasattr(self, method.lower())
        ):
            return None
        return self.needs.get(getattr(self, "action", None) or method, Need(Role.OWNER))


class Authenticated(BasePermission):
    """A person, or an API key."""

    def has_permission(self, request: Request, view: APIView) -> bool:
        return request.auth is not None or request.user.is_authenticated


class Person(Authenticated):
    """Somebody who logged in: no API key."""

    message = "No API key may do this; log in."
    code = "person_required"

    def has_permission(self, request: Request, view: APIView) -> bool:
        return super().has_permission(request, view) and not isinstance(request.auth, ApiCredential)


class ProjectPermission(Authenticated):
    """Finds the project of the URL, if it names one, and asks for what the action needs.

    Raises:
        NotFound: there is no such project for this caller.
    """

    def __init__(self) -> None:
        self.message = ""
        self.code = ""

    def has_permission(self, request: Request, view: Any) -> bool:
        if not super().has_permission(request, view):
            return False
        if "project_id" in view.kwargs:
            view.project = self._project(request, view.kwargs["project_id"])
        need = view.need(request)
        if isinstance(request.auth, ApiCredential):
            return need is None or self._key_allows(request.auth, need)
        if "project_id" not in view.kwargs:
            return True
        view.role = view.project.role_of(request.user)
        return need is None or self._role_allows(view.role, need)

    def _role_allows(self, role: Role | None, need: Need) -> bool:
        if role is None:  # it was taken away a moment ago
            raise NotFound
        self.message = f"This needs the role {need.role} in this project, or one above it."
        self.code = "role_required"
        return role.includes(need.role)

    def _project(self, request: Request, project_id: UUID) -> Project:
        project = visible_projects(request).filter(pk=project_id).first()
        if project is None:
            raise NotFound
        return project

    def _key_allows(self, key: ApiCredential, need: Need) -> bool:
        if need.scope is None:
            self.message, self.code = Person.message, Person.code
            return False
        self.message = f"This API key lacks the scope {need.scope}."
        self.code = "scope_required"
        return key.has_scope(need.scope)


def visible_projects(request: Request) -> ProjectQuerySet:
    """The projects that exist for the sender of a request."""
    if isinstance(request.auth, ApiCredential):
        return Project.objects.filter(pk=request.auth.project_id)
    return Project.objects.for_user(request.user)
