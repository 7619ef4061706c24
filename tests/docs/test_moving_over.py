"""The ways of docs/moving-over.md are walked as they stand there, two with the real packages."""

import re
from dataclasses import replace
from pathlib import Path

import pytest

from benchmarks.comparison.install import install
from benchmarks.comparison.packages import PEERS
from tests.docs.pages import blocks, section
from tests.docs.walk import Project

PAGE = "moving-over.md"
HEAD = "from django.db import models\n{imports}\n\n\nclass Account(models.Model):\n"
TEAM = '    team = models.ForeignKey("auth.Group", on_delete=models.CASCADE)\n'

FERNET = (
    "from encrypted_fields.fields import EncryptedTextField as OldTextField",
    "OldTextField(null=True)",
)

VALUES = ["of one", "über 🔐 tokens", "x" * 5000, "0", None]
WRITE = f"""
from django.contrib.auth.models import Group
from shop.models import Account
for number, value in enumerate({VALUES!r}):
    Account.objects.create(team=Group.objects.create(name=str(number)), token=value)
"""
READ = """
from shop.models import Account
print([account.token for account in Account.objects.order_by("pk")])
"""
EDIT = """
from shop.models import Account
account = Account.objects.order_by("pk")[{at}]
account.token = {value!r}
account.save(update_fields=["token"])
"""
HIDDEN = """
from django.db import connection
with connection.cursor() as cursor:
    cursor.execute("SELECT token FROM shop_account ORDER BY id")
    found = [row[0] for row in cursor.fetchall()]
assert [text is None or text.startswith("v2:") for text in found] == [True] * len(found), found
"""
COLUMNS = """
from django.db import connection
print([column.name for column in connection.introspection.get_table_description(
    connection.cursor(), "shop_account")])
"""


def values(project: Project) -> str:
    return project.shell(READ).splitlines()[-1]


def test_every_block_is_walked() -> None:
    """By the tests below: a block of a new section needs one, too."""
    walked = [
        *section(PAGE, "From a plaintext column"),
        *section(PAGE, "From django-fernet-encrypted-fields"),
        *section(PAGE, "From django-cryptography"),
        *section(PAGE, "Back to plaintext"),
    ]
    assert walked == blocks(PAGE)
    steps = [ADD, "2. Copy", "3. Verify", "4. Switch", "5. Drop"]
    assert walked[3:-3] == [block for step in steps for block in section(PAGE, step)]


def test_a_plaintext_column_is_adopted(tmp_path: Path) -> None:
    project = Project(tmp_path)
    plain = HEAD.format(imports="") + TEAM + "    token = models.TextField()\n"
    project.write("shop/models.py", plain)
    project.manage("makemigrations", "shop")
    project.manage("migrate")
    project.shell(WRITE.replace("None", "''"))
    before = values(project)

    model, *steps = section(PAGE, "From a plaintext column")
    assert len(steps) == 2
    project.follow(model)
    for step in steps:
        project.follow(step)
        assert values(project) == before
    project.shell(HIDDEN)
    assert "plaintext" not in project.manage("encryption_status", "--json")

    project.write("shop/models.py", model.text.replace(", allow_plaintext=True", ""))
    project.manage("makemigrations", "shop", "--name", "adopted")
    assert "(no-op)" in project.manage("sqlmigrate", "shop", "0003")
    project.manage("migrate")
    assert values(project) == before


class Recipe:
    """The steps of the recipe with the import and the field of one of the other packages."""

    def __init__(self, project: Project, imports: str, field: str) -> None:
        self.project, self.imports, self.field = project, imports, field
        self.before = HEAD.format(imports=imports) + TEAM + f"    token = {field}\n"

    def follow(self, *titles: str) -> None:
        for title in titles:
            for block in section(PAGE, title):
                self.project.follow(replace(block, text=self.adapted(block.text)))

    def adapted(self, text: str) -> str:
        def field(found: re.Match[str]) -> str:
            return self.field.replace("null=True", found[1])

        return re.sub(r"OldTextField\((.*?)\)", field, text.replace(FERNET[0], self.imports))

    def back_to(self, migration: str, models: str) -> None:
        """A way back: the code of another step, and the database of a migration."""
        self.project.manage("migrate", "shop", migration)
        self.project.write("shop/models.py", models)


def of_django_cryptography() -> tuple[str, str]:
    imports, field = section(PAGE, "From django-cryptography")
    return f"from django.db import models\n{imports.text.strip()}", field.text.strip()


PACKAGES = {
    "django-fernet-encrypted-fields": (lambda: FERNET, "SALT_KEY = 'a salt'"),
    "django-cryptography-django5": (of_django_cryptography, "CRYPTOGRAPHY_KEY = 'a key'"),
}
ADD = "1. Add the new column, and write both"


@pytest.fixture(params=PACKAGES)
def recipe(request: pytest.FixtureRequest, tmp_path: Path) -> Recipe:
    """A project with rows of the other package."""
    old, settings = PACKAGES[request.param]
    (package,) = (peer for peer in PEERS if peer.name == request.param)
    project = Project(tmp_path, [install(package)], settings)
    recipe = Recipe(project, *old())
    project.write("shop/models.py", recipe.before)
    project.manage("makemigrations", "shop", "--name", "initial")
    project.manage("migrate")
    project.shell(WRITE)
    assert values(project) == repr(VALUES)
    return recipe


@pytest.mark.recipes
def test_a_field_of_another_package_is_moved(recipe: Recipe) -> None:
    project, expected = recipe.project, list(VALUES)

    def edit(at: int, value: str | None) -> None:
        project.shell(EDIT.format(at=at, value=value))
        expected[at] = value
        assert values(project) == repr(expected)

    recipe.follow(ADD)
    edit(0, "written to both")
    recipe.follow("2. Copy", "3. Verify")
    assert values(project) == repr(expected)
    edit(1, "written after the copy")
    recipe.follow("3. Verify", "4. Switch")
    assert values(project) == repr(expected)
    project.shell(HIDDEN.replace("token FROM", "new_token FROM"))
    edit(2, "written after the switch")
    edit(4, "a value where there was none")
    recipe.follow("5. Drop")
    assert values(project) == repr(expected)
    project.shell(HIDDEN)
    assert "new_token" not in project.shell(COLUMNS)


@pytest.mark.recipes
def test_each_step_has_its_way_back(recipe: Recipe) -> None:
    project = recipe.project
    for steps in ([ADD], [ADD, "2. Copy"], [ADD, "2. Copy", "3. Verify"]):
        recipe.follow(*steps)
        recipe.back_to("0001", recipe.before)
        assert values(project) == repr(VALUES)
        for file in (project.folder / "shop" / "migrations").glob("000[23]*.py"):
            file.unlink()

    recipe.follow(ADD, "2. Copy")
    during = (project.folder / "shop" / "models.py").read_text()
    recipe.follow("4. Switch")
    project.shell(EDIT.format(at=0, value="written after the switch"))
    recipe.back_to("0003", during)
    assert values(project) == repr(["written after the switch", *VALUES[1:]])


@pytest.mark.recipes
def test_a_wrong_key_stops_the_copy(recipe: Recipe) -> None:
    recipe.follow(ADD)
    settings = recipe.project.folder / "settings.py"
    right = settings.read_text()
    settings.write_text(right.replace("'a salt'", "'x'").replace("'a key'", "'x'"))
    with pytest.raises(AssertionError, match=r"cannot be decrypted|InvalidToken|InvalidSignature"):
        recipe.follow("2. Copy")
    settings.write_text(right)
    recipe.follow("2. Copy", "3. Verify")


def test_an_encrypted_column_becomes_plaintext(tmp_path: Path) -> None:
    project = Project(tmp_path)
    imports = "from encryption.fields import EncryptedTextField"
    body = TEAM + '    token = EncryptedTextField(salt_field="team", null=True)\n'
    project.write("shop/models.py", HEAD.format(imports=imports) + body)
    project.manage("makemigrations", "shop", "--name", "initial")
    project.manage("migrate")
    project.shell(WRITE)

    body += "    plain_token = models.TextField(null=True)\n"
    project.write("shop/models.py", HEAD.format(imports=imports) + body)
    project.manage("makemigrations", "shop", "--name", "plain_token")
    (copy,) = section(PAGE, "Back to plaintext")
    project.follow(copy)
    project.manage("migrate")
    assert project.shell(READ.replace(".token", ".plain_token")).splitlines()[-1] == repr(VALUES)
