import pytest
from django.contrib.auth.models import AnonymousUser
from django.core.exceptions import ValidationError
from django.db import IntegrityError, transaction

from projects.models import Membership, Project
from projects.roles import Role
from tests.projects.factories import ProjectFactory, UserFactory, member

pytestmark = pytest.mark.django_db


def test_roles_are_ordered():
    assert Role.OWNER.includes(Role.VIEWER)
    assert Role.MEMBER.includes(Role.MEMBER)
    assert not Role.VIEWER.includes(Role.MEMBER)
    assert Role.including(Role.ADMIN) == [Role.OWNER, Role.ADMIN]


def test_a_new_owner_makes_the_former_one_an_admin():
    project = ProjectFactory()
    former, new = project.owner, member(project, Role.VIEWER)
    project.owner = new
    project.save()
    assert (project.role_of(former), project.role_of(new)) == (Role.ADMIN, Role.OWNER)
    assert project.memberships.filter(role=Role.OWNER).count() == 1


def test_for_user_knows_the_least_role():
    project = ProjectFactory()
    viewer = member(project, Role.VIEWER)
    assert list(Project.objects.for_user(viewer)) == [project]
    assert list(Project.objects.for_user(viewer, Role.MEMBER)) == []
    assert list(Project.objects.for_user(project.owner, Role.OWNER)) == [project]
    assert list(Project.objects.for_user(UserFactory())) == []
    assert list(Project.objects.for_user(AnonymousUser())) == []
    assert project.role_of(AnonymousUser()) is None


def test_a_user_belongs_to_a_project_once():
    project = ProjectFactory()
    viewer = member(project, Role.VIEWER)
    with pytest.raises(IntegrityError), transaction.atomic():
        Membership.objects.create(project=project, user=viewer, role=Role.ADMIN)


def test_nobody_but_the_owner_has_the_role_of_owner():
    project = ProjectFactory()
    with pytest.raises(ValidationError):
        Membership(project=project, user=UserFactory(), role=Role.OWNER).full_clean()
    own = project.memberships.get()
    own.role = Role.VIEWER
    with pytest.raises(ValidationError):
        own.full_clean()
    with pytest.raises(ValidationError):
        Membership(role=Role.VIEWER).full_clean()
