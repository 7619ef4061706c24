"""The admin's pages about rotations."""

from datetime import timedelta

import pytest
from django.contrib.admin import AdminSite
from django.contrib.auth.models import Permission, User
from django.test import Client, RequestFactory
from django.urls import reverse, reverse_lazy
from django.utils import timezone
from pytest_django import Settings

from encryption import conf
from encryption.models import RotationRun
from tests.encryption.database import store
from tests.fieldapp.factories import NoteFactory

OLD = "the old master key, at least 32 characters long"
NEW = "the new master key, at least 32 characters long"


def staff(client: Client, *codenames: str) -> Client:
    user = User.objects.create_user("staff", is_staff=True)
    user.user_permissions.set(
        Permission.objects.filter(codename__in=codenames, content_type__app_label="encryption")
    )
    client.force_login(user)
    return client


def a_run(**fields: object) -> RotationRun:
    counts = {"examined": 3, "rotated": 2, "changed_meanwhile": 0, "failed": 1}
    return RotationRun.objects.create(
        **{
            "started_by": "root@host",
            "to_key_id": "0123abcd",
            "write_format": "v2",
            "columns": [{"column": "app.Model.field", "database": "default", **counts}],
            "failures": [
                {
                    "label": "app.Model.field",
                    "database": "default",
                    "pk": "<b>7</b>",
                    "reason": "TamperedError: changed",
                }
            ],
            **fields,
        }
    )


def test_the_status_page_needs_its_permission(client: Client, db: None) -> None:
    url = reverse("admin:encryption_status")
    assert client.get(url).status_code == 302
    assert staff(client, "view_rotationrun").get(url).status_code == 403
    assert url not in client.get(reverse("admin:encryption_rotationrun_changelist")).text


@pytest.mark.parametrize(
    "page", [reverse_lazy("admin:index"), reverse_lazy("admin:app_list", args=["encryption"])]
)
def test_the_index_links_to_the_status_page(client: Client, db: None, page: str) -> None:
    link = f'href="{reverse("admin:encryption_status")}"'
    assert link in staff(client, "view_status").get(page).text
    User.objects.get(username="staff").user_permissions.set(
        Permission.objects.filter(codename="view_rotationrun")
    )
    text = client.get(page).text
    assert reverse("admin:encryption_rotationrun_changelist") in text
    assert link not in text


def test_a_site_without_the_runs_has_no_link(rf: RequestFactory, admin_user: User) -> None:
    request = rf.get("/")
    request.user = admin_user
    site = AdminSite(name="other")
    site.register(User)
    assert [app["app_label"] for app in site.get_app_list(request)] == ["auth"]


def test_the_status_page_has_a_bar_for_each_column(
    client: Client, settings: Settings, db: None
) -> None:
    settings.ENCRYPTION = {"MASTER_KEY": OLD}
    old = conf.get_keyring().primary.key_id
    NoteFactory.create_batch(3)
    settings.ENCRYPTION = {"MASTER_KEY": NEW, "MASTER_KEY_FALLBACKS": [OLD]}
    new = conf.get_keyring().primary.key_id
    note = NoteFactory(data=None)
    store(NoteFactory(data=None), "secret", "v2:00000000:" + "A" * 80)
    staff(client, "view_status")
    assert reverse("admin:encryption_status") in (
        client.get(reverse("admin:encryption_rotationrun_changelist")).text
    )
    text = client.get(reverse("admin:encryption_status")).text
    assert f'aria-label="fieldapp.Note.secret: 1 {new}, 3 {old}, 1 00000000"' in text
    assert '<rect x="0.00" width="80.00"' in text
    assert '<rect x="80.00" width="240.00"' in text
    assert '<rect x="320.00" width="80.00"' in text
    assert "1 row is under key 00000000, which the keyring lacks." in " ".join(text.split())
    assert f"The primary key is {new}, the fallback keys are {old}." in " ".join(text.split())
    assert "fieldapp.Vault.data: no values" in text
    assert note.secret not in text


def test_without_fallback_keys_the_status_page_says_so(client: Client, db: None) -> None:
    text = staff(client, "view_status").get(reverse("admin:encryption_status")).text
    key = conf.get_keyring().primary.key_id
    assert f"The primary key is {key}; there are no fallback keys." in " ".join(text.split())


def test_the_status_page_without_a_key(client: Client, settings: Settings, db: None) -> None:
    staff(client, "view_status")
    settings.ENCRYPTION = {"MASTER_KEY": "short"}
    answer = client.get(reverse("admin:encryption_status"))
    assert answer.status_code == 200
    assert "generate_master_key" in answer.text


def test_runs_can_be_read_and_nothing_else(client: Client, db: None) -> None:
    run = a_run(status="incomplete")
    a_run(part_of=run, scope={"column": "app.Model.field", "after": None, "upto": "9"})
    staff(client, "view_rotationrun", "change_rotationrun", "delete_rotationrun", "add_rotationrun")
    listing = client.get(reverse("admin:encryption_rotationrun_changelist")).text
    assert listing.count("root@host") == 1
    url = reverse("admin:encryption_rotationrun_change", args=[run.pk])
    page = client.get(url).text
    assert "3 examined, 2 rotated, 0 changed meanwhile, 1 failed" in page
    assert "pk=&lt;b&gt;7&lt;/b&gt;: TamperedError: changed" in page
    assert "app.Model.field ( &ndash; 9): running" in page
    assert client.post(url, {"status": "done"}).status_code == 403
    assert client.get(reverse("admin:encryption_rotationrun_add")).status_code == 403
    delete = reverse("admin:encryption_rotationrun_delete", args=[run.pk])
    assert client.post(delete, {"post": "yes"}).status_code == 403


@pytest.mark.parametrize(
    ("status", "minutes", "dead"),
    [
        ("running", 6, True),
        ("running", 1, False),
        ("done", 6, False),
    ],
)
def test_a_killed_run_is_shown_as_such(
    client: Client, db: None, status: str, minutes: int, dead: bool
) -> None:
    run = a_run(status=status)
    RotationRun.objects.update(updated_at=timezone.now() - timedelta(minutes=minutes))
    staff(client, "view_rotationrun")
    page = client.get(reverse("admin:encryption_rotationrun_change", args=[run.pk])).text
    assert ("no sign of life since" in page) is dead
