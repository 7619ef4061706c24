import re
from collections import Counter
from collections.abc import Callable, Iterator
from typing import Any

import pytest
from django import forms
from django.contrib import admin
from django.contrib.admin import utils
from django.contrib.admin.exceptions import DisallowedModelAdminLookup
from django.contrib.admin.models import LogEntry
from django.contrib.admin.sites import all_sites
from django.contrib.auth.models import Permission, User
from django.contrib.contenttypes.admin import GenericTabularInline
from django.contrib.contenttypes.fields import GenericForeignKey
from django.contrib.contenttypes.models import ContentType
from django.core.checks import run_checks
from django.db import models
from django.test import Client, RequestFactory, override_settings
from django.test.utils import isolate_apps
from django.urls import path, reverse

from encryption.admin import check_admin_exposure, secret_at
from encryption.fields import EncryptedTextField
from encryption.forms import SecretField
from tests.encryption.database import store, stored, tables
from tests.fieldapp.factories import NoteFactory, TenantFactory, VaultFactory
from tests.fieldapp.models import Holder, Indexed, Note, Once, Tenant, UuidTenant, Vault

CANARY = "sk_live_canary_4eC39HqLyjWDarjtT1zdp7dc"
OTHER = "sk_live_other_8Xv0pQ2mN5"

site = admin.AdminSite(name="secrets")


class NoteAdmin(admin.ModelAdmin):
    """Nothing of ours; it shows the secrets in every way there is."""

    list_display = ["note", "secret", "data"]
    list_filter = [("secret", admin.EmptyFieldListFilter)]
    search_fields = ["note"]
    ordering = ["note"]
    save_as = True


class NoteInline(admin.TabularInline):
    model = Note
    extra = 1


class OnceInline(admin.TabularInline):
    model = Once
    fields = ["secret", "label"]


class OnceAdmin(admin.ModelAdmin):
    list_display = ["id", "secret"]
    list_editable = ["secret"]


class TenantOfOnceAdmin(admin.ModelAdmin):
    inlines = [OnceInline]


class TenantAdmin(admin.ModelAdmin):
    save_as = True
    inlines = [NoteInline]
    search_fields = ["name"]


class HolderAdmin(admin.ModelAdmin):
    list_display = ["id", "note__secret"]
    autocomplete_fields = ["note"]


class VaultAdmin(admin.ModelAdmin):
    list_display = ["name", "secret", "host"]
    list_editable = ["secret"]
    readonly_fields = ["data"]


with isolate_apps("tests.fieldapp"):

    class Tagged(models.Model):
        kind = models.ForeignKey(ContentType, models.CASCADE)
        number = models.PositiveIntegerField()
        row = GenericForeignKey("kind", "number")
        realm = models.CharField(max_length=10)
        secret = EncryptedTextField(salt_field="realm", null=True, blank=True)

        class Meta:
            app_label = "fieldapp"


site.register(Note, NoteAdmin)
site.register(Tenant, TenantAdmin)
site.register(Holder, HolderAdmin)
site.register(Vault, VaultAdmin)
site.register(UuidTenant)
site.register(Indexed)

unique_site = admin.AdminSite(name="unique")
unique_site.register(Tenant, TenantOfOnceAdmin)
unique_site.register(Once, OnceAdmin)

urlpatterns = [path("admin/", site.urls), path("unique/", unique_site.urls)]

pytestmark = pytest.mark.usefixtures("db")


@pytest.fixture(autouse=True)
def _urls() -> Iterator[None]:
    with override_settings(ROOT_URLCONF=__name__):
        yield


@pytest.fixture
def client() -> Client:
    client = Client()
    client.force_login(User.objects.create_superuser("root"))
    return client


@pytest.fixture
def viewer() -> Client:
    """Of somebody who may look at everything, and change nothing."""
    user = User.objects.create_user("viewer", is_staff=True)
    user.user_permissions.set(Permission.objects.filter(codename__startswith="view_"))
    client = Client()
    client.force_login(user)
    return client


def url(page: str, model: str = "note", *args: object) -> str:
    return reverse(f"secrets:fieldapp_{model}_{page}", args=args)


def content(client: Client, address: str, data: dict[str, Any] | None = None) -> str:
    response = client.get(address) if data is None else client.post(address, data)
    assert response.status_code == 200
    return response.content.decode()


def form_data(note: Note, **data: Any) -> dict[str, Any]:
    return {"tenant": note.tenant_id, "note": "edited", **data}


def poison(row: Note, field: str = "secret") -> str:
    """Give a row a token of a key that nobody has, and return it."""
    token = f"v2:00000000:{stored(row, field).rpartition(':')[2]}"
    store(row, field, token)
    return token


def cells(page: str, column: str) -> list[str]:
    return re.findall(rf'<t[dh] class="field-{column}[^"]*">(.*?)</t[dh]>', page)


# -- every page -----------------------------------------------------------------------------------


def pages(note: Note, holder: Holder, vault: Vault) -> list[str]:
    autocomplete = "?app_label=fieldapp&model_name=holder&field_name=note"
    return [
        url("changelist"),
        url("changelist") + "?q=needle",
        url("changelist") + "?secret__isempty=0",
        url("changelist") + "?o=1",
        url("changelist") + "?_popup=1",
        url("add"),
        url("add") + "?_popup=1",
        url("change", "note", note.pk),
        url("change", "note", note.pk) + "?_popup=1",
        url("history", "note", note.pk),
        url("delete", "note", note.pk),
        url("changelist", "tenant"),
        url("change", "tenant", note.tenant_id),
        url("delete", "tenant", note.tenant_id),
        url("changelist", "holder"),
        url("add", "holder"),
        url("change", "holder", holder.pk),
        url("changelist", "vault"),
        url("change", "vault", vault.pk),
        reverse("secrets:autocomplete") + autocomplete,
        reverse("secrets:index"),
    ]


@pytest.mark.parametrize("who", ["client", "viewer"])
def test_no_page_holds_a_secret_or_decrypts_one(
    who: str, request: pytest.FixtureRequest, crypto: Counter[str]
) -> None:
    note = NoteFactory(secret=CANARY, data={"key": CANARY}, note="needle")
    vault = VaultFactory(secret=CANARY, data={"key": CANARY})
    holder = Holder.objects.create(note=note)
    LogEntry.objects.create(
        user=User.objects.create_user("other"), object_id=note.pk, action_flag=2
    )
    someone: Client = request.getfixturevalue(who)
    crypto.clear()
    seen = 0
    for address in pages(note, holder, vault):
        response = someone.get(address)
        if who == "viewer" and ("/add/" in address or "/delete/" in address):
            assert response.status_code == 403, address
            continue
        assert response.status_code == 200, address
        page = response.content.decode()
        assert CANARY not in page, address
        assert stored(note, "secret") not in page, address
        assert "Ciphertext" not in page, address
        seen += 1
    assert seen >= 16
    assert crypto == {}


@pytest.mark.parametrize(
    "lookup",
    [
        "secret",
        "secret__exact",
        "secret__in",
        "secret__startswith",
        "data__auth__key",
        "secret_index",
        "secret_index__startswith",
        "early__gt",
    ],
)
def test_nobody_guesses_a_secret_by_a_filter(viewer: Client, lookup: str) -> None:
    row = Indexed.objects.create(tenant=TenantFactory(), secret=CANARY, data={"auth": {"key": 1}})
    stored_as = row.secret_index if lookup.startswith("secret_index") else CANARY
    for guess in (stored_as, OTHER):
        for more in ({}, {"tenant": row.tenant_id}, {"tenant__id__exact": row.tenant_id}):
            response = viewer.get(url("changelist", "indexed"), {lookup: guess, **more})
            assert response.status_code == 400
            assert guess not in response.content.decode()


@pytest.mark.parametrize("lookup", ["note__secret", "note__secret__exact", "note__data__key"])
def test_nor_across_a_relation_that_the_list_filters_by(client: Client, lookup: str) -> None:
    class FilteredAdmin(HolderAdmin):
        list_filter = ["note"]

        def lookup_allowed(self, *args: Any, **kwargs: Any) -> bool:
            return True

    request = RequestFactory().get("/", {lookup: CANARY})
    request.user = User(is_superuser=True, is_staff=True, is_active=True)
    with pytest.raises(DisallowedModelAdminLookup, match="not allowed") as caught:
        FilteredAdmin(Holder, site).get_changelist_instance(request)
    assert CANARY not in str(caught.value)


def test_whether_there_is_a_secret_may_be_asked(viewer: Client) -> None:
    tenant = TenantFactory()
    Indexed.objects.create(tenant=tenant, secret=CANARY, name="with")
    Indexed.objects.create(tenant=tenant, name="without")
    for lookup in ("secret__isnull", "secret_index__isnull"):
        page = content(viewer, url("changelist", "indexed") + f"?{lookup}=True")
        assert "1 indexed" in page


def test_a_list_may_have_filters_of_its_own_for_them(client: Client) -> None:
    row = Indexed.objects.create(tenant=TenantFactory(), secret=CANARY)

    class ByName(admin.SimpleListFilter):
        title = parameter_name = "secret"

        def lookups(self, request: Any, model_admin: Any) -> list[tuple[str, str]]:
            return [("yes", "yes")]

        def queryset(self, request: Any, queryset: Any) -> Any:
            return queryset.exclude(secret=None) if self.value() == "yes" else queryset

    class OpenAdmin(admin.ModelAdmin):
        list_filter = [ByName, "secret_index", ("early", admin.AllValuesFieldListFilter)]

    for lookup, value in (
        ("secret", "yes"),
        ("secret_index", row.secret_index),
        ("secret_index__exact", row.secret_index),
        ("early", row.early),
    ):
        request = RequestFactory().get("/", {lookup: value})
        request.user = User.objects.get(username="root")
        changes = OpenAdmin(Indexed, site).get_changelist_instance(request)
        assert list(changes.queryset) == [row]


def test_the_confirmation_of_a_mass_deletion_holds_no_secret(client: Client) -> None:
    note = NoteFactory(secret=CANARY)
    chosen = {"action": "delete_selected", "_selected_action": [note.pk]}
    page = content(client, url("changelist"), chosen)
    assert "Are you sure" in page
    assert CANARY not in page


# -- display --------------------------------------------------------------------------------------


def test_the_list_tells_set_from_not_set(client: Client) -> None:
    NoteFactory(note="b", secret=CANARY, data=None)
    NoteFactory(note="a", secret=None, data={})
    page = content(client, url("changelist") + "?o=1")
    assert cells(page, "secret") == ["not set", "set"]
    assert cells(page, "data") == ["set", "not set"]


def test_the_list_follows_relations(client: Client) -> None:
    for secret in (CANARY, None):
        Holder.objects.create(note=NoteFactory(secret=secret))
    Holder.objects.create(note=None)
    page = content(client, url("changelist", "holder") + "?o=1")
    assert cells(page, "note__secret") == ["set", "not set", "not set"]


def test_the_filter_finds_what_is_not_set(client: Client) -> None:
    NoteFactory(note="with", secret=CANARY)
    NoteFactory(note="without", secret=None)
    page = content(client, url("changelist") + "?secret__isempty=1")
    assert "without" in page
    assert ">with<" not in page


def test_a_viewer_sees_whether_a_secret_is_set(viewer: Client) -> None:
    note = NoteFactory(secret=CANARY, data=None)
    page = content(viewer, url("change", "note", note.pk))
    assert re.findall(r'<div class="readonly">(.*?)</div>', page)[1:3] == ["set", "not set"]
    page = content(viewer, url("change", "tenant", note.tenant_id))
    assert "<p>set</p>" in page


def test_a_read_only_field_shows_whether_it_is_set(client: Client) -> None:
    vault = VaultFactory(data={"key": CANARY})
    page = content(client, url("change", "vault", vault.pk))
    assert re.findall(r'<div class="readonly">(.*?)</div>', page) == ["set"]


def test_rows_that_cannot_be_decrypted_break_no_page(client: Client, viewer: Client) -> None:
    note = NoteFactory(secret=CANARY, data=[CANARY])
    poison(note)
    poison(note, "data")
    assert cells(content(client, url("changelist")), "secret") == ["set"]
    for someone in (client, viewer):
        assert someone.get(url("change", "note", note.pk)).status_code == 200
        assert someone.get(url("change", "tenant", note.tenant_id)).status_code == 200


def test_an_admin_that_reads_the_value_itself_shows_nothing() -> None:
    # Packages that draw the admin anew have imported Django's functions before we replace ours.
    note = NoteFactory(secret=CANARY, data={"key": CANARY})
    for name in ("secret", "data"):
        field, _, value = utils.lookup_field.__wrapped__(name, note)
        assert CANARY in str(value)
        assert utils.display_for_field(value, field, "-") == "-"


def test_what_is_not_encrypted_is_shown_as_ever(client: Client) -> None:
    note = NoteFactory(note="plain text")
    assert cells(content(client, url("changelist")), "note")[0].count("plain text") == 1
    assert str(note.tenant) in content(client, url("change", "note", note.pk))


def test_no_list_is_sorted_by_a_secret(client: Client) -> None:
    for name in ("b", "a"):
        note = NoteFactory(note=name)
        Holder.objects.create(note=note)
    page = content(client, url("changelist"))
    assert "sortable column-note" in page
    assert "column-secret" in page
    assert "sortable column-secret" not in page
    assert client.get(url("changelist") + "?o=2").status_code == 200
    assert client.get(url("changelist", "holder") + "?o=2").status_code == 200


# -- change ---------------------------------------------------------------------------------------


def test_left_empty_keeps_the_stored_token(client: Client, crypto: Counter[str]) -> None:
    note = NoteFactory(secret=CANARY)
    before = stored(note, "secret")
    crypto.clear()
    response = client.post(url("change", "note", note.pk), form_data(note, secret="", data=""))
    assert response.status_code == 302
    assert crypto == {}
    assert stored(note, "secret") == before
    assert Note.objects.get().note == "edited"


def test_a_typed_secret_is_stored_and_logged_by_its_name_alone(client: Client) -> None:
    note = NoteFactory(secret=OTHER)
    client.post(url("change", "note", note.pk), form_data(note, secret=CANARY))
    assert Note.objects.get().secret == CANARY
    entry = LogEntry.objects.get()
    assert entry.get_change_message() == "Changed Secret and Note."
    assert CANARY not in content(client, url("history", "note", note.pk))


def test_a_ticked_box_clears(client: Client) -> None:
    note = NoteFactory(secret=OTHER)
    data = form_data(note, **{"secret": "", "secret-clear": "on"})
    assert client.post(url("change", "note", note.pk), data).status_code == 302
    assert stored(note, "secret") is None


def test_a_form_that_comes_back_with_errors_holds_no_secret(client: Client) -> None:
    note = NoteFactory(secret=OTHER)
    broken = form_data(note, secret=CANARY, data=f'{{"{CANARY}"', tenant="")
    for address in (url("change", "note", note.pk), url("add")):
        page = content(client, address, broken)
        assert "Please correct the errors below" in page
        assert "Enter the value again" in page
        assert CANARY not in page
        assert OTHER not in page


def test_the_other_fields_of_a_row_that_cannot_be_decrypted_can_be_edited(client: Client) -> None:
    note = NoteFactory(secret=CANARY)
    token = poison(note)
    response = client.post(url("change", "note", note.pk), form_data(note, secret=""))
    assert response.status_code == 302
    assert stored(note, "secret") == token
    assert Note.objects.get().note == "edited"
    client.post(url("change", "note", note.pk), form_data(note, secret=OTHER))
    assert Note.objects.get().secret == OTHER


def test_a_secret_is_added_and_saved_as_new(client: Client) -> None:
    tenant = Tenant.objects.create()
    data = {"tenant": tenant.pk, "note": "first", "secret": CANARY}
    assert client.post(url("add") + "?_popup=1", {**data, "_popup": "1"}).status_code == 200
    note = Note.objects.get()
    assert note.secret == CANARY
    data = {**data, "note": "second", "secret": OTHER, "_saveasnew": "1"}
    assert client.post(url("change", "note", note.pk), data).status_code == 302
    assert Note.objects.get(note="second").secret == OTHER
    assert Note.objects.get(note="first").secret == CANARY


NOT_COPIED = "Enter the value again: a copy does not get the one that the original has."


def test_a_copy_without_the_originals_secret_is_refused(client: Client) -> None:
    note = NoteFactory(secret=CANARY, data={"a": 1})
    address = url("change", "note", note.pk)
    data = form_data(note, secret="", data="", _saveasnew="1")
    page = content(client, address, data)
    assert page.count(NOT_COPIED) == 2
    assert "A copy does not get the value that the original has." in page
    assert "Leave this empty to keep it" not in page
    assert 'name="secret-clear"' in page
    page = content(client, address, {**data, "secret": OTHER})
    assert page.count(NOT_COPIED) == 1
    assert OTHER not in page
    assert Note.objects.get() == note

    # To do without is said by ticking the box.
    data = {**data, "secret": OTHER, "data-clear": "on"}
    assert client.post(address, data).status_code == 302
    copied = Note.objects.exclude(pk=note.pk).get()
    assert (copied.secret, copied.data) == (OTHER, None)
    assert (Note.objects.get(pk=note.pk).secret, Note.objects.get(pk=note.pk).data) == (
        CANARY,
        {"a": 1},
    )


def test_a_copy_of_a_row_without_secrets(client: Client) -> None:
    note = NoteFactory(secret=None, data=None)
    data = form_data(note, secret="", data="", _saveasnew="1")
    assert client.post(url("change", "note", note.pk), data).status_code == 302
    assert Note.objects.filter(secret=None, data=None).count() == 2


def test_a_copy_of_a_row_that_cannot_be_decrypted_is_no_other(client: Client) -> None:
    note = NoteFactory(secret=CANARY, data=None)
    poison(note)
    data = form_data(note, secret="", data="", _saveasnew="1")
    assert NOT_COPIED in content(client, url("change", "note", note.pk), data)
    client.post(url("change", "note", note.pk), {**data, "secret": OTHER})
    assert Note.objects.exclude(pk=note.pk).get().secret == OTHER


def test_a_copy_of_no_row(client: Client) -> None:
    tenant = Tenant.objects.create()
    data = {"tenant": tenant.pk, "note": "n", "secret": "", "data": "", "_saveasnew": "1"}
    for object_id in ("99", "x"):
        assert client.post(url("change", "note", object_id), data).status_code == 302
    assert client.post(url("add"), data).status_code == 302
    assert Note.objects.count() == 3


def test_copies_in_inlines(client: Client) -> None:
    note = NoteFactory(secret=CANARY, data=None)
    data = {
        "name": "copied",
        "_saveasnew": "1",
        "note_set-TOTAL_FORMS": 3,
        "note_set-INITIAL_FORMS": 1,
        "note_set-0-id": note.pk,
        "note_set-0-tenant": note.tenant_id,
        "note_set-0-note": "copied",
        "note_set-0-secret": "",
        "note_set-1-note": "added",
        "note_set-1-secret": "",
        "note_set-2-note": "strange",
        "note_set-2-id": "x",
    }
    address = url("change", "tenant", note.tenant_id)
    page = content(client, address, data)
    assert page.count(NOT_COPIED) == 1
    assert Note.objects.count() == 1
    assert client.post(address, {**data, "note_set-0-secret": OTHER}).status_code == 302
    secrets = {one.note: one.secret for one in Note.objects.exclude(pk=note.pk)}
    assert secrets == {"copied": OTHER, "added": None, "strange": None}
    assert Note.objects.get(pk=note.pk).secret == CANARY


def test_copies_in_generic_inlines(rf: RequestFactory, transactional_db: None) -> None:
    with tables(Tagged):
        note = NoteFactory()
        kind = ContentType.objects.get_for_model(Note)
        tagged = Tagged.objects.create(kind=kind, number=note.pk, realm="r", secret=CANARY)

        class TaggedInline(GenericTabularInline):
            model = Tagged
            ct_field, ct_fk_field = "kind", "number"

        row = "fieldapp-tagged-kind-number-0"
        data = {
            "_saveasnew": "1",
            f"{row[:-2]}-TOTAL_FORMS": 1,
            f"{row[:-2]}-INITIAL_FORMS": 1,
            f"{row}-id": tagged.pk,
            f"{row}-realm": "r",
            f"{row}-secret": "",
        }
        request = rf.post("/", data)
        request.user = User.objects.create_superuser("root")
        formset = TaggedInline(Note, site).get_formset(request)
        sent = formset(request.POST, instance=NoteFactory(), save_as_new=True)
        assert sent.errors == [{"secret": [NOT_COPIED]}]


def test_who_may_not_look_is_not_told_whether_there_was_a_secret() -> None:
    note = NoteFactory(secret=CANARY, data=None)
    user = User.objects.create_user("adder", is_staff=True)
    user.user_permissions.set(Permission.objects.filter(codename="add_note"))
    adder = Client()
    adder.force_login(user)
    data = form_data(note, secret="", data="", _saveasnew="1")
    assert adder.post(url("change", "note", note.pk), data).status_code == 302
    assert Note.objects.exclude(pk=note.pk).get().secret is None


def test_duplicates_among_inlines(client: Client) -> None:
    data: dict[str, Any] = {
        "name": "new",
        "once_set-TOTAL_FORMS": 2,
        "once_set-INITIAL_FORMS": 0,
        "once_set-0-secret": CANARY,
        "once_set-1-secret": CANARY,
    }
    add = reverse("unique:fieldapp_tenant_add")
    for address in (add, reverse("unique:fieldapp_tenant_change", args=[TenantFactory().pk])):
        page = content(client, address, data)
        assert page.count("Please correct the duplicate data for secret.") == 1
        assert CANARY not in page
    assert not Once.objects.exists()
    data["once_set-1-secret"] = OTHER
    assert client.post(add, data).status_code == 302
    assert {row.secret for row in Once.objects.all()} == {CANARY, OTHER}


def test_duplicates_in_an_editable_list(client: Client) -> None:
    tenant = TenantFactory()
    rows = [Once.objects.create(tenant=tenant, secret=text) for text in ("one", "two")]
    data: dict[str, Any] = {
        "form-TOTAL_FORMS": 2,
        "form-INITIAL_FORMS": 2,
        "_save": "Save",
    }
    for place, row in enumerate(reversed(rows)):
        data |= {f"form-{place}-id": row.pk, f"form-{place}-secret": CANARY}
    address = reverse("unique:fieldapp_once_changelist")
    page = content(client, address, data)
    assert page.count("Please correct the duplicate data for secret.") == 1
    assert CANARY not in page
    data["form-1-secret"] = OTHER
    assert client.post(address, data).status_code == 302
    assert {row.secret for row in Once.objects.all()} == {CANARY, OTHER}


def test_inlines_keep_and_add(client: Client) -> None:
    note = NoteFactory(secret=CANARY)
    before = stored(note, "secret")
    data = {
        "name": "tenant",
        "note_set-TOTAL_FORMS": 2,
        "note_set-INITIAL_FORMS": 1,
        "note_set-0-id": note.pk,
        "note_set-0-tenant": note.tenant_id,
        "note_set-0-note": "edited",
        "note_set-0-secret": "",
        "note_set-1-tenant": note.tenant_id,
        "note_set-1-note": "added",
        "note_set-1-secret": OTHER,
    }
    response = client.post(url("change", "tenant", note.tenant_id), data)
    assert response.status_code == 302
    assert stored(note, "secret") == before
    assert {row.note: row.secret for row in Note.objects.all()} == {
        "edited": CANARY,
        "added": OTHER,
    }


def test_an_editable_column_keeps_and_replaces(client: Client) -> None:
    vaults = [VaultFactory(secret=OTHER), VaultFactory(secret=OTHER)]
    page = content(client, url("changelist", "vault"))
    assert OTHER not in page
    rows = re.findall(r'name="form-(\d)-id" value="([^"]+)"', page)
    assert {pk for _, pk in rows} == {str(vault.pk) for vault in vaults}
    data = {
        "form-TOTAL_FORMS": 2,
        "form-INITIAL_FORMS": 2,
        **{f"form-{place}-id": pk for place, pk in rows},
        "form-0-secret": CANARY,
        "form-1-secret": "",
        "_save": "Save",
    }
    assert client.post(url("changelist", "vault"), data).status_code == 302
    assert Vault.objects.get(pk=rows[0][1]).secret == CANARY
    assert Vault.objects.get(pk=rows[1][1]).secret == OTHER


# -- checks ---------------------------------------------------------------------------------------


class PlainNoteForm(forms.ModelForm):
    secret = forms.CharField()

    class Meta:
        model = Note
        fields = ["tenant", "secret", "note"]


class SecretNoteForm(forms.ModelForm):
    secret = SecretField(min_length=8)

    class Meta:
        model = Note
        fields = ["tenant", "secret", "note"]


@pytest.fixture
def ids_of() -> Iterator[Callable[..., list[str]]]:
    sites: list[admin.AdminSite] = []

    def ids_of(model: Any, **options: Any) -> list[str]:
        sites.append(admin.AdminSite())
        sites[-1].register(model, type("Tried", (admin.ModelAdmin,), options))
        return [str(message.id) for message in check_admin_exposure(None)]

    yield ids_of
    for one in sites:
        all_sites.discard(one)


@pytest.mark.parametrize(
    ("options", "id_"),
    [
        ({"search_fields": ["secret"]}, "E040"),
        ({"search_fields": ["=secret"]}, "E040"),
        ({"search_fields": ["data__icontains"]}, "E040"),
        ({"list_filter": ["secret"]}, "E041"),
        ({"list_filter": [("secret", admin.AllValuesFieldListFilter)]}, "E041"),
        ({"ordering": ["note", "-secret"]}, "E042"),
        ({"prepopulated_fields": {"note": ["secret"]}}, "E043"),
        ({"prepopulated_fields": {"secret": ["note"]}}, "E043"),
        ({"form": PlainNoteForm}, "E044"),
        ({"formfield_overrides": {EncryptedTextField: {"form_class": forms.CharField}}}, "E044"),
    ],
)
def test_what_cannot_work_in_an_admin_is_refused(
    ids_of: Callable[..., list[str]], options: dict[str, Any], id_: str
) -> None:
    assert ids_of(Note, **options) == [f"encryption.{id_}"]


@pytest.mark.parametrize("options", [{"search_fields": ["note__secret"]}])
def test_relations_are_followed(ids_of: Callable[..., list[str]], options: dict[str, Any]) -> None:
    assert ids_of(Holder, **options) == ["encryption.E040"]


def test_inlines_are_checked(ids_of: Callable[..., list[str]]) -> None:
    inline = type("Inline", (admin.StackedInline,), {"model": Note, "form": PlainNoteForm})
    assert ids_of(Tenant, inlines=[inline]) == ["encryption.E044"]


@pytest.mark.parametrize(
    "options",
    [
        {},
        {"list_display": ["secret"], "sortable_by": ["secret"]},
        {"readonly_fields": ["secret"], "form": SecretNoteForm},
        {"formfield_overrides": {EncryptedTextField: {"widget": forms.Textarea}}},
        {"list_filter": [("secret", admin.EmptyFieldListFilter), "note"]},
        {"search_fields": ["note", "tenant__name"], "ordering": ["note"]},
    ],
)
def test_what_works_is_not_refused(
    ids_of: Callable[..., list[str]], options: dict[str, Any]
) -> None:
    assert ids_of(Note, **options) == []


def test_django_runs_the_checks(ids_of: Callable[..., list[str]]) -> None:
    ids_of(Note, search_fields=["secret"])
    assert "encryption.E040" in [message.id for message in run_checks(tags=["admin"])]


@pytest.mark.parametrize(
    ("model", "name", "found"),
    [
        (Note, "secret", True),
        (Note, "note", False),
        (Note, "missing", False),
        (Note, "tenant__missing", False),
        (Note, "missing__secret", False),
        (Holder, "note__secret", True),
        (Holder, "note__tenant__name", False),
        (Holder, "note", False),
        (Tenant, "note__data", True),
    ],
)
def test_a_path_leads_to_a_secret(model: Any, name: str, found: bool) -> None:
    assert (secret_at(model, name) is not None) is found
