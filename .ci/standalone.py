"""Use `encryption` as a stranger would: from a wheel, in a Django project that has nothing else.

    python .ci/standalone.py WHEEL

Makes an environment of its own with the running Python and the versions of constraints.txt,
installs the wheel without any extra, sees that nothing but Django and cryptography came along, runs
the README's example and a rotation, and takes a small project through the life of a
column: it holds plaintext, is adopted with `allow_plaintext`, loses that option, and its model is
renamed. Exits with an error as soon as something differs from what is documented.
"""

import json
import os
import re
import secrets
import subprocess
import sys
import venv
from pathlib import Path
from tempfile import TemporaryDirectory

ROOT = Path(__file__).resolve().parent.parent
CONSTRAINTS = ROOT / "constraints.txt"
#: Django and cryptography, and what they need on one Python or another.
ALONE = {
    "asgiref", "cffi", "cryptography", "dashtray", "django", "pip", "pycparser", "setuptools",
    "sqlparse", "typing-extensions", "tzdata",
}  # fmt: skip

SETTINGS = """
SECRET_KEY = "a throw-away"
INSTALLED_APPS = ["django.contrib.contenttypes", "encryption", "notes"]
DATABASES = {"default": {"ENGINE": "django.db.backends.sqlite3", "NAME": "db.sqlite3"}}
DEFAULT_AUTO_FIELD = "django.db.models.BigAutoField"
"""

MODELS = """
from django.db import models
from encryption.fields import EncryptedJSONField, EncryptedTextField

class Team(models.Model):
    name = models.TextField()

class {model}(models.Model):
    team = models.ForeignKey(Team, on_delete=models.CASCADE)
    body = {body}
    extra = EncryptedJSONField(salt_field="team", context="notes.extra", null=True)
"""

PLAIN = "models.TextField()"
ADOPTED = 'EncryptedTextField(salt_field="team", allow_plaintext=True)'
ENCRYPTED = 'EncryptedTextField(salt_field="team")'
RENAMED = 'EncryptedTextField(salt_field="team", context="notes.note.body")'

WRITE = """
from notes.models import Note, Team
team = Team.objects.create(name="red")
Note.objects.create(team=team, body="first plaintext", extra={"secret": ["in JSON"]})
Note.objects.create(team=team, body="second plaintext")
"""

ADOPT = """
from django.db import connection
from notes.models import Note
first, second = Note.objects.order_by("pk")
assert (first.body, second.body) == ("first plaintext", "second plaintext")
first.save()
assert Note.objects.get(pk=first.pk).body == "first plaintext"
with connection.cursor() as cursor:
    cursor.execute("SELECT body FROM notes_note ORDER BY id")
    assert [row[0][:3] == "v2:" for row in cursor.fetchall()] == [True, False]
second.save()
"""

READ = """
from notes.models import Note
assert sorted(note.body for note in Note.objects.all()) == ["first plaintext", "second plaintext"]
assert Note.objects.order_by("pk")[0].extra == {"secret": ["in JSON"]}
assert Note.objects.order_by("pk")[1].extra is None
"""

READ_RENAMED = READ.replace("Note", "Memo")

REFUSED_RENAMED = """
from encryption import TamperedError
from notes.models import Memo
try:
    Memo.objects.order_by("pk")[0].body
except TamperedError as error:
    assert "context" in str(error) and "plaintext" not in str(error), error
else:
    raise AssertionError("another context decrypted")
"""

RENAMING = """
from django.db import migrations

class Migration(migrations.Migration):
    dependencies = [("notes", "0003_encrypted")]
    operations = [migrations.RenameModel("Note", "Memo")]
"""


class Project:
    def __init__(self, python: Path, folder: Path) -> None:
        self.python, self.folder = python, folder
        self.environ = {
            "PATH": os.environ["PATH"],
            "DJANGO_SETTINGS_MODULE": "settings",
            "MASTER_ENCRYPTION_KEY": secrets.token_hex(32),
        }

    def write(self, name: str, text: str) -> None:
        file = self.folder / name
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(text, encoding="utf-8")

    def run(self, *arguments: str) -> None:
        subprocess.run(
            [self.python, "-W", "error", *arguments],
            cwd=self.folder,
            env=self.environ,
            check=True,
            stdout=subprocess.DEVNULL,
        )

    def manage(self, *arguments: str) -> None:
        self.run("-m", "django", *arguments)

    def models(self, body: str, model: str = "Note") -> None:
        self.write("notes/models.py", MODELS.format(body=body, model=model))

    def migrate(self, name: str) -> None:
        self.manage("makemigrations", "notes", "--name", name)
        self.manage("migrate")
        self.manage("check", "--fail-level", "WARNING")

    def execute(self, code: str) -> None:
        self.run("-c", f"import django; django.setup()\n{code}")

    def contains(self, text: str) -> bool:
        return text.encode() in (self.folder / "db.sqlite3").read_bytes()


def expect(condition: bool, what: str) -> None:
    if not condition:
        raise SystemExit(f"Not as documented: {what}")


def live(project: Project) -> None:
    project.write("settings.py", SETTINGS)
    project.write("notes/__init__.py", "")

    project.models(PLAIN)
    project.migrate("plaintext")
    project.execute(WRITE)
    expect(project.contains("first plaintext"), "a TextField holds plaintext")
    expect(not project.contains("in JSON"), "a JSON value is encrypted")

    project.models(ADOPTED)
    project.migrate("adopted")
    project.execute(ADOPT)

    project.models(ENCRYPTED)
    project.migrate("encrypted")
    project.execute(READ)
    # SQLite keeps what was overwritten in its free pages until then.
    project.execute("from django.db import connection; connection.cursor().execute('VACUUM')")
    for text in ("first plaintext", "second plaintext"):
        expect(not project.contains(text), "no plaintext is left once every row was saved")

    project.write("notes/migrations/0004_renamed.py", RENAMING)
    project.models(ENCRYPTED, "Memo")
    project.manage("migrate")
    project.execute(REFUSED_RENAMED)
    project.models(RENAMED, "Memo")
    project.migrate("context")
    project.execute(READ_RENAMED)


USE_OF_README = """
from django.contrib.auth.models import Group
from shop.models import Account
Account.objects.create(team=Group.objects.create(name="one"), token="x", settings={"a": [1, None]})
assert (Account.objects.get().token, Account.objects.get().settings) == ("x", {"a": [1, None]})
"""


def readme(project: Project) -> None:
    """The model of the README, and a change of the master key."""
    (example,) = re.findall(
        r"```python\n(.*?)```", (ROOT / "README.md").read_text("utf-8"), re.DOTALL
    )
    apps = '"django.contrib.auth", "encryption", "shop"]'
    project.write("settings.py", SETTINGS.replace('"encryption", "notes"]', apps))
    project.write("shop/__init__.py", "")
    project.write("shop/models.py", example)
    project.manage("makemigrations", "shop")
    project.manage("migrate")
    project.manage("check", "--fail-level", "WARNING")
    project.execute(USE_OF_README)
    project.environ["MASTER_ENCRYPTION_KEY_FALLBACKS"] = project.environ["MASTER_ENCRYPTION_KEY"]
    project.environ["MASTER_ENCRYPTION_KEY"] = secrets.token_hex(32)
    project.manage("rotate_master_key")
    del project.environ["MASTER_ENCRYPTION_KEY_FALLBACKS"]
    project.manage("encryption_status", "--fail-if-stale")
    project.manage("check", "--database", "default")


def installed(python: Path) -> set[str]:
    command = [python, "-m", "pip", "list", "--format", "json", "--disable-pip-version-check"]
    listed = subprocess.run(command, check=True, capture_output=True, text=True).stdout
    return {package["name"].lower().replace("_", "-") for package in json.loads(listed)}


def main(wheel: str) -> None:
    with TemporaryDirectory() as name:
        folder = Path(name)
        venv.create(folder / "venv", with_pip=True)
        python = folder / "venv" / "bin" / "python"
        install = ["-m", "pip", "install", "--quiet", "--disable-pip-version-check"]
        subprocess.run([python, *install, "-c", CONSTRAINTS, wheel], check=True)
        expect(
            installed(python) <= ALONE, f"nothing else is installed: {installed(python) - ALONE}"
        )
        readme(Project(python, folder / "readme"))
        live(Project(python, folder / "project"))


if __name__ == "__main__":
    main(sys.argv[1])
