from typing import Any

import factory
from django.contrib.auth.models import User
from factory.django import DjangoModelFactory

from projects.models import Membership, Project
from projects.roles import Role


class UserFactory(DjangoModelFactory[User]):
    class Meta:
        model = User
        skip_postgeneration_save = True

    username = factory.Sequence(lambda n: f"person{n}")
    email = factory.LazyAttribute(lambda user: f"{user.username}@example.test")


class ProjectFactory(DjangoModelFactory[Project]):
    class Meta:
        model = Project

    name = factory.Sequence(lambda n: f"Project {n}")
    owner = factory.SubFactory(UserFactory)


def member(project: Project, role: Role, **user: Any) -> User:
    """A new user with a role in a project."""
    person = UserFactory(**user)
    Membership.objects.create(project=project, user=person, role=role)
    return person
