"""What a role in a project lets somebody do on the admin site."""

from typing import Any

import pytest
from django.contrib.auth.models import Permission
from django.test import Client

from projects.models import Membership, Project
from projects.roles import Role
from tests.projects.factories import ProjectFactory, UserFactory, member

pytestmark = pytest.mark.django_db


def staff(client: Client, user: Any) -> Client:
    """Log somebody in who has every permission that Django has."""
    user.is_staff = True
    user.save()
    user.user_permissions.set(Permission.objects.all())
    client.force_login(user)
    return client


def page(project: Project, view: str = "change") -> str:
    return f"/admin/projects/project/{project.pk}/{view}/"


def form(project: Project, *, owner_too: bool = False, **changed: Any) -> dict[str, Any]:
    """What the page of a project sends, with each of its members in a row, but for the owner."""
    rows = list(project.memberships.order_by("pk"))
    if not owner_too:
        rows = [row for row in rows if row.role != Role.OWNER]
    sent = {
        "name": project.name,
        "owner": project.owner_id,
        "memberships-TOTAL_FORMS": len(rows),
        "memberships-INITIAL_FORMS": len(rows),
    }
    for number, row in enumerate(rows):
        prefix = f"memberships-{number}-"
        sent |= {
            f"{prefix}id": row.pk,
            f"{prefix}project": project.pk,
            f"{prefix}user": row.user_id,
            f"{prefix}role": row.role,
        }
    return {**sent, **changed}


def roles(project: Project) -> dict[int, str]:
    return dict(project.memberships.values_list("user_id", "role"))


@pytest.fixture
def project() -> Project:
    return ProjectFactory(name="Storefront")


@pytest.fixture
def admin(client: Client, project: Project) -> Client:
    return staff(client, member(project, Role.ADMIN))


def number_of(project: Project, role: Role) -> int:
    rows = list(project.memberships.order_by("pk"))
    if role != Role.OWNER:
        rows = [row for row in rows if row.role != Role.OWNER]
    return next(number for number, row in enumerate(rows) if row.role == role)


def test_an_admin_renames_a_project_and_manages_its_members(
    admin: Client, project: Project
) -> None:
    new = UserFactory()
    total = project.memberships.count() - 1
    sent = form(project, name="Shop") | {
        "memberships-TOTAL_FORMS": total + 1,
        f"memberships-{total}-project": project.pk,
        f"memberships-{total}-user": new.pk,
        f"memberships-{total}-role": "viewer",
    }
    assert admin.post(page(project), sent).status_code == 302
    project.refresh_from_db()
    assert project.name == "Shop"
    assert roles(project)[new.pk] == "viewer"


def test_an_admin_does_not_hand_the_project_on(admin: Client, project: Project) -> None:
    owner, me = project.owner_id, project.memberships.get(role=Role.ADMIN).user_id
    before = roles(project)
    admin.post(page(project), form(project, owner=me))
    project.refresh_from_db()
    assert (project.owner_id, roles(project)) == (owner, before)


def test_an_admin_makes_nobody_the_owner(admin: Client, project: Project) -> None:
    before = roles(project)
    row = number_of(project, Role.ADMIN)
    response = admin.post(page(project), form(project, **{f"memberships-{row}-role": "owner"}))
    assert response.status_code == 200
    assert roles(project) == before


@pytest.mark.parametrize("change", ["role", "DELETE", "user"])
def test_the_owner_stays_the_owner(admin: Client, project: Project, change: str) -> None:
    before = roles(project)
    row = number_of(project, Role.OWNER)
    values = {"role": "viewer", "DELETE": "on", "user": UserFactory().pk}
    name = f"memberships-{row}-{change}"
    sent = form(project, owner_too=True, **{name: values[change]})
    admin.post(page(project), sent)
    assert roles(project) == before


def test_an_admin_does_not_delete_the_project(admin: Client, project: Project) -> None:
    assert admin.post(page(project, "delete"), {"post": "yes"}).status_code == 403
    sent = {"action": "delete_selected", "_selected_action": str(project.pk), "post": "yes"}
    admin.post("/admin/projects/project/", sent)
    assert Project.objects.filter(pk=project.pk).exists()


def test_the_owner_hands_it_on(client: Client, project: Project) -> None:
    old, new = project.owner, member(project, Role.ADMIN)
    staff(client, old)
    assert client.post(page(project), form(project, owner=new.pk)).status_code == 302
    project.refresh_from_db()
    assert project.owner_id == new.pk
    assert roles(project) == {old.pk: "admin", new.pk: "owner"}


@pytest.mark.parametrize("change", ["role", "DELETE"])
def test_whoever_gets_it_is_a_member_in_the_end(
    client: Client, project: Project, change: str
) -> None:
    new = member(project, Role.ADMIN)
    staff(client, project.owner)
    before = roles(project)
    row = f"memberships-{number_of(project, Role.ADMIN)}-{change}"
    sent = form(project, owner=new.pk, **{row: {"role": "viewer", "DELETE": "on"}[change]})
    assert client.post(page(project), sent).status_code == 200
    assert roles(project) == before


def test_the_owner_deletes_it(client: Client, project: Project) -> None:
    staff(client, project.owner)
    assert client.post(page(project, "delete"), {"post": "yes"}).status_code == 302
    assert not Project.objects.exists()


def test_a_viewer_changes_nothing(client: Client, project: Project) -> None:
    staff(client, member(project, Role.VIEWER))
    before = roles(project)
    assert client.get(page(project)).status_code == 200
    assert client.post(page(project), form(project, name="Mine")).status_code == 403
    project.refresh_from_db()
    assert (project.name, roles(project)) == ("Storefront", before)


def test_one_makes_a_project_of_ones_own(client: Client) -> None:
    person = UserFactory()
    staff(client, person)
    sent = {
        "name": "New",
        "owner": person.pk,
        "memberships-TOTAL_FORMS": 0,
        "memberships-INITIAL_FORMS": 0,
    }
    assert client.post("/admin/projects/project/add/", sent).status_code == 302
    assert Project.objects.get().owner == person
    assert Membership.objects.get().role == Role.OWNER
