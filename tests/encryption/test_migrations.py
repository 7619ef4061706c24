"""Migrations: options that serialise, historical models, renames, and what is refused."""

from collections.abc import Callable
from typing import Any

import pytest
from django.core.exceptions import FieldError
from django.core.serializers.json import DjangoJSONEncoder
from django.db import connection, migrations, models
from django.db.migrations.autodetector import MigrationAutodetector
from django.db.migrations.graph import MigrationGraph
from django.db.migrations.questioner import MigrationQuestioner
from django.db.migrations.state import ModelState, ProjectState
from django.db.migrations.writer import MigrationWriter, OperationWriter
from django.test.utils import isolate_apps

from encryption import TamperedError, encrypt
from encryption.fields import BlindIndexField, EncryptedJSONField, EncryptedTextField
from encryption.managers import EncryptedManager
from tests.fieldapp.models import Note, Tenant, UuidTenant, Vault

APP = "ciphered"


@pytest.mark.parametrize(
    "field",
    [
        EncryptedTextField(salt_field="project"),
        EncryptedTextField(salt_field="project", bound_to=("id", "host"), null=True, blank=True),
        EncryptedTextField("a name", salt_field="project", bound_to=["id"], help_text="help"),
        EncryptedTextField(salt_field="project", context="old.model.field", allow_plaintext=True),
        EncryptedTextField(salt_field="project", context="", db_column="other"),
        EncryptedJSONField(salt_field="project"),
        EncryptedJSONField(salt_field="project", encoder=DjangoJSONEncoder, null=True),
        EncryptedJSONField(salt_field="project", default=dict),
    ],
    ids=["plain", "bound", "named", "adopting", "column", "JSON", "encoder", "default"],
)
def test_a_field_survives_a_migration_file(field: models.Field) -> None:
    text, imports = MigrationWriter.serialize(field)
    scope: dict[str, Any] = {}
    exec("\n".join(imports), scope)
    again = eval(text, scope)

    assert type(again) is type(field)
    assert again.deconstruct()[1:] == field.deconstruct()[1:]
    assert field.clone().deconstruct()[1:] == field.deconstruct()[1:]
    for option in ("salt_field", "bound_to", "context", "allow_plaintext"):
        assert getattr(again, option) == getattr(field, option)


def test_the_path_of_a_field_is_public() -> None:
    assert EncryptedTextField(salt_field="a").deconstruct()[1] == (
        "encryption.fields.EncryptedTextField"
    )
    assert EncryptedJSONField(salt_field="a").deconstruct()[1] == (
        "encryption.fields.EncryptedJSONField"
    )


def test_options_that_were_not_given_are_not_written() -> None:
    kwargs = EncryptedTextField(salt_field="a").deconstruct()[3]
    assert set(kwargs) == {"salt_field"}


def test_bound_to_is_a_tuple_whatever_it_was() -> None:
    for bound in (["id"], ("id",), "id"):
        field = EncryptedTextField(salt_field="a", bound_to=bound)
        assert field.bound_to == ("id",)


def _changes(before: ProjectState, after: ProjectState, app: str) -> list[Any]:
    questioner = MigrationQuestioner(defaults={"ask_initial": True})
    detector = MigrationAutodetector(before, after, questioner)
    found = detector.changes(graph=MigrationGraph()).get(app, [])
    return [operation for migration in found for operation in migration.operations]


def test_a_migration_is_written_and_then_no_other() -> None:
    def state() -> ProjectState:
        made = ProjectState()
        for model in (Tenant, UuidTenant, Note, Vault):
            made.add_model(ModelState.from_model(model))
        return made

    operations = _changes(ProjectState(), state(), "fieldapp")
    assert {operation.name for operation in operations} >= {"Note", "Vault"}
    for operation in operations:
        text, _ = OperationWriter(operation, indentation=0).serialize()
        assert text
    assert not _changes(state(), state(), "fieldapp")


def test_an_option_that_changes_is_a_migration() -> None:
    def state(**options: Any) -> ProjectState:
        made = ProjectState()
        made.add_model(_model("Item", secret=EncryptedTextField(salt_field="realm", **options)))
        return made

    for options in ({"context": "a.b.c"}, {"bound_to": ["id"]}, {"allow_plaintext": True}):
        (operation,) = _changes(state(), state(**options), APP)
        assert isinstance(operation, migrations.AlterField)
    assert not _changes(state(context="a.b.c"), state(context="a.b.c"), APP)


@pytest.mark.parametrize("encoder", [5, "text", [DjangoJSONEncoder]])
def test_an_encoder_is_a_class(encoder: Any) -> None:
    with pytest.raises(ValueError, match="encoder"):
        EncryptedJSONField(salt_field="a", encoder=encoder)
    with pytest.raises(ValueError, match="decoder"):
        EncryptedJSONField(salt_field="a", decoder=encoder)


# -- on a real table ----------------------------------------------------------------------------


def _model(name: str, **fields: models.Field) -> ModelState:
    key = models.BigAutoField(primary_key=True)
    realm = models.CharField(max_length=20)
    return ModelState(
        APP,
        name,
        [("id", key), ("realm", realm), *fields.items()],
        managers=[("objects", EncryptedManager())],
    )


class Project:
    """A project of which only the migrations of one app exist."""

    def __init__(self) -> None:
        self.state = ProjectState()
        self._undo: list[tuple[Any, ProjectState, ProjectState]] = []

    def __getitem__(self, name: str) -> Any:
        return self.state.apps.get_model(APP, name)

    def apply(self, operation: Any) -> None:
        before, after = self.state, self.state.clone()
        operation.state_forwards(APP, after)
        with connection.schema_editor(atomic=operation.atomic) as editor:
            operation.database_forwards(APP, editor, before, after)
        self.state = after

    def drop(self) -> None:
        with connection.schema_editor() as editor:
            for model in self.state.apps.get_models():
                editor.delete_model(model)


@pytest.fixture
def project(transactional_db: None) -> Any:
    project = Project()
    state = _model(
        "Item",
        secret=EncryptedTextField(salt_field="realm", null=True),
        data=EncryptedJSONField(salt_field="realm", bound_to=["realm"], null=True),
    )
    project.apply(
        migrations.CreateModel("Item", list(state.fields.items()), managers=state.managers)
    )
    yield project
    project.drop()


def test_historical_models_read_and_write(project: Project) -> None:
    def forwards(apps: Any, editor: Any) -> None:
        item = apps.get_model(APP, "Item")
        row = item.objects.create(realm="north", secret="s", data={"a": 1})
        row = item.objects.get(pk=row.pk)
        assert (row.secret, row.data) == ("s", {"a": 1})
        row.realm = "south"
        row.save(update_fields=["realm"])
        for row in item.objects.iterator():
            row.data["b"] = 2
            row.save()
        item.objects.bulk_create([item(realm="west", secret="t")])

    project.apply(migrations.RunPython(forwards))

    first, second = project["Item"].objects.order_by("pk")
    assert (first.realm, first.secret, first.data) == ("south", "s", {"a": 1, "b": 2})
    assert second.secret == "t"


def test_historical_models_refuse_as_all_do(project: Project) -> None:
    item = project["Item"]
    item.objects.create(realm="north", secret="s")
    for values in ({"secret": "clear"}, {"realm": "south"}):
        with pytest.raises(FieldError):
            item.objects.update(**values)
    with pytest.raises(FieldError):
        item.objects.filter(secret="s")
    assert item.objects.get().secret == "s"
    rows = list(item.objects.all())
    rows[0].realm = "south"
    item.objects.bulk_update(rows, ["realm"])
    assert item.objects.get().secret == "s"


def _rename_model(project: Project) -> Any:
    project.apply(migrations.RenameModel("Item", "Thing"))
    return "Thing", "secret"


def _rename_field(project: Project) -> Any:
    project.apply(migrations.RenameField("Item", "secret", "password"))
    return "Item", "password"


@pytest.mark.parametrize("rename", [_rename_model, _rename_field], ids=["model", "field"])
class TestRenames:
    def test_with_the_old_label_as_context(
        self, project: Project, rename: Callable[[Project], tuple[str, str]]
    ) -> None:
        project["Item"].objects.create(realm="north", secret="s")
        fixed = EncryptedTextField(salt_field="realm", null=True, context=f"{APP}.item.secret")
        project.apply(migrations.AlterField("Item", "secret", fixed))
        assert project["Item"].objects.get().secret == "s"

        model, name = rename(project)

        row = project[model].objects.get()
        assert getattr(row, name) == "s"
        setattr(row, name, "new")
        row.save()
        assert getattr(project[model].objects.get(), name) == "new"

    def test_without_it_the_error_says_what_to_do(
        self, project: Project, rename: Callable[[Project], tuple[str, str]]
    ) -> None:
        project["Item"].objects.create(realm="north", secret="s")
        model, name = rename(project)
        row = project[model].objects.get()
        with pytest.raises(TamperedError, match=r"renaming.*context="):
            getattr(row, name)
        fixed = EncryptedTextField(salt_field="realm", null=True, context=f"{APP}.item.secret")
        project.apply(migrations.AlterField(model, name, fixed))
        assert getattr(project[model].objects.get(), name) == "s"


def test_the_salt_is_renamed(project: Project) -> None:
    project["Item"].objects.create(realm="north", secret="s", data=[1])
    project.apply(
        migrations.AlterField("Item", "secret", EncryptedTextField(salt_field="zone", null=True))
    )
    project.apply(
        migrations.AlterField(
            "Item",
            "data",
            EncryptedJSONField(salt_field="zone", bound_to=["zone"], null=True),
        )
    )
    project.apply(migrations.RenameField("Item", "realm", "zone"))
    row = project["Item"].objects.get()
    assert (row.secret, row.data) == ("s", [1])


# -- AddField -----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "field",
    [
        EncryptedTextField(salt_field="realm", default="one secret for all"),
        EncryptedTextField(salt_field="realm", default=""),
        EncryptedTextField(salt_field="realm", default=lambda: "one secret for all"),
        EncryptedJSONField(salt_field="realm", default=dict),
        EncryptedTextField(salt_field="realm", default="one secret for all", null=True),
    ],
    ids=["text", "empty", "callable", "JSON", "nullable"],
)
@pytest.mark.parametrize("rows", [0, 2])
@pytest.mark.parametrize("preserve", [True, False])
def test_a_default_is_not_written_to_every_row(
    project: Project, field: models.Field, rows: int, preserve: bool
) -> None:
    for number in range(rows):
        project["Item"].objects.create(realm=f"realm {number}", secret="s")
    operation = migrations.AddField("Item", "added", field, preserve_default=preserve)

    with pytest.raises(FieldError, match=r"Item\.added.*null=True.*RunPython"):
        project.apply(operation)

    assert [row.secret for row in project["Item"].objects.all()] == ["s"] * rows


def test_a_null_column_is_added_and_filled(project: Project) -> None:
    project["Item"].objects.create(realm="north")
    project["Item"].objects.create(realm="south")
    project.apply(
        migrations.AddField("Item", "added", EncryptedTextField(salt_field="realm", null=True))
    )

    def fill(apps: Any, editor: Any) -> None:
        for row in apps.get_model(APP, "Item").objects.all():
            assert row.added is None
            row.added = f"for {row.realm}"
            row.save(update_fields=["added"])

    project.apply(migrations.RunPython(fill))
    project.apply(migrations.AlterField("Item", "added", EncryptedTextField(salt_field="realm")))
    assert {row.added for row in project["Item"].objects.all()} == {"for north", "for south"}


def test_a_plain_column_becomes_an_encrypted_one(project: Project) -> None:
    project.apply(migrations.AddField("Item", "old", models.TextField(default="plain text")))
    project["Item"].objects.create(realm="north", old="plain text")
    adopting = EncryptedTextField(salt_field="realm", allow_plaintext=True)
    project.apply(migrations.AlterField("Item", "old", adopting))

    row = project["Item"].objects.get()
    assert row.old == "plain text"
    row.save()
    project.apply(migrations.AlterField("Item", "old", EncryptedTextField(salt_field="realm")))
    assert project["Item"].objects.get().old == "plain text"
    with connection.cursor() as cursor:
        cursor.execute(f"SELECT old FROM {APP}_item")
        assert cursor.fetchone()[0].startswith("v2:")


def test_a_column_that_gets_not_null_with_a_default_is_refused(project: Project) -> None:
    project["Item"].objects.create(realm="north", secret=None)
    field = EncryptedTextField(salt_field="realm", default="one secret for all")
    with pytest.raises(FieldError):
        project.apply(migrations.AlterField("Item", "secret", field))
    assert project["Item"].objects.get().secret is None


def test_the_context_is_what_tells_columns_apart(project: Project) -> None:
    row = project["Item"].objects.create(realm="north")
    token = encrypt("s", "north", context=f"{APP}.item.secret")
    with connection.cursor() as cursor:
        cursor.execute(f"UPDATE {APP}_item SET secret = %s WHERE id = %s", [token, row.pk])
    assert project["Item"].objects.get().secret == "s"


@isolate_apps("tests.fieldapp")
def test_a_model_made_anew_without_a_part_of_its_key() -> None:
    """As `migrate` makes those of apps without migrations: without their foreign keys."""

    class Owner(models.Model):
        class Meta:
            app_label = "fieldapp"

    class Part(models.Model):
        pk = models.CompositePrimaryKey("owner", "number")
        owner = models.ForeignKey(Owner, models.CASCADE)
        number = models.IntegerField()
        secret = EncryptedTextField(salt_field="owner", bound_to=["number"])
        index = BlindIndexField("secret")

        class Meta:
            app_label = "fieldapp"

    for exclude_rels in (True, False):
        state = ProjectState()
        state.add_model(ModelState.from_model(Owner))
        state.add_model(ModelState.from_model(Part, exclude_rels=exclude_rels))
        made = state.apps.get_model("fieldapp", "Part")
        assert made._meta.get_field("secret")
        assert hasattr(made, "_encryption_layout") is not exclude_rels
