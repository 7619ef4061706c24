"""Forms of the admin site: one per service, and the one in which a secret is asked for."""

import json
from typing import TYPE_CHECKING, Any, ClassVar

from django import forms
from django.core.exceptions import ValidationError
from django.utils.translation import gettext_lazy as _

from connections.changes import InvalidChangeError, check_creation, check_update, name_problem
from connections.integrations.base import Integration
from connections.integrations.fields import ConfigField, SecretShapedError, refuse_secrets
from connections.models import Connection, Status
from encryption import sha256_hex
from encryption.forms import SecretField
from projects.attempts import check_password_again

if TYPE_CHECKING:
    ConnectionModelForm = forms.ModelForm[Connection]
else:
    ConnectionModelForm = forms.ModelForm

CONFIG, CREDENTIAL, SEEN = "config_", "credential_", "seen"
#: The initial value of a credential that is set: something that is kept, and no part of it.
KEPT = object()


class SeenField(forms.CharField):
    """Names the configuration that a page showed, so that its form is not taken for another one."""

    widget = forms.HiddenInput

    def has_changed(self, initial: Any, data: Any) -> bool:
        return False  # it is no change of the user's


class ConnectionForm(ConnectionModelForm):
    """The fields that every service has; :func:`form_for` adds those of one.

    ``config_changes`` and ``credential_changes`` are what was entered, once it is valid;
    ``new_config`` is the whole configuration that comes of it.
    """

    integration: ClassVar[Integration | None] = None
    status = forms.ChoiceField(
        # Django's own text repeats what was sent.
        error_messages={"invalid_choice": _("Choose one of these.")}
    )
    seen = SeenField(required=False)

    class Meta:
        model = Connection
        fields = ("project", "name", "status")

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.config_changes: dict[str, Any] = {}
        self.credential_changes: dict[str, str | None] = {}
        self.new_config: dict[str, Any] = {}
        choices = [Status.ACTIVE, Status.PAUSED]
        if self.instance.status == Status.ERROR:
            choices.append(Status.ERROR)
        if "status" in self.fields:
            self.fields["status"].choices = [(one.value, one.label) for one in choices]  # type: ignore[attr-defined]
        if not self.instance._state.adding:
            self._show_stored()

    def _show_stored(self) -> None:
        self.initial[SEEN] = _digest(self.instance.config)
        for name in {"name", "status"} & set(self.fields):
            # What was changed is told by what the page showed: the row may hold a newer value.
            sent = self.add_initial_prefix(name) in self.data
            self.fields[name].show_hidden_initial = sent or not self.is_bound
        for name, field in self.fields.items():
            if name.startswith(CONFIG):
                stored = self.instance.config.get(name.removeprefix(CONFIG))
                self.initial.setdefault(name, _as_text(stored))
            elif name.startswith(CREDENTIAL):
                field.required = False
                if name.removeprefix(CREDENTIAL) in self.instance.credential_names:
                    self.initial.setdefault(name, KEPT)

    def _forget_secrets(self) -> None:
        """What looks like a secret and was typed where none belongs is not shown once more."""
        for name in ("name", *(one for one in self.fields if one.startswith(CONFIG))):
            if forget_secret(self, name) and name.startswith(CONFIG):
                self.add_error(name, ValidationError(str(SecretShapedError()), "secret_in_config"))

    def clean_name(self) -> str:
        name: str = self.cleaned_data["name"]
        if problem := name_problem(name):
            raise ValidationError(problem[0], code=problem[1])
        return name

    def clean(self) -> dict[str, Any]:
        cleaned: dict[str, Any] = super().clean() or self.cleaned_data
        self._forget_secrets()
        if cleaned.get(SEEN) and cleaned[SEEN] != self.initial.get(SEEN):
            # A secret that was typed beside one host is for that host.
            stale = _("Somebody changed the configuration meanwhile. Open this page again.")
            self.add_error(None, ValidationError(stale, code="changed_meanwhile"))
        if self.integration is None or self.errors:
            return cleaned
        for name in self.changed_data:
            value = cleaned.get(name)
            if name.startswith(CONFIG):
                self._take_config(name, value or "")
            elif name.startswith(CREDENTIAL):
                self.credential_changes[name.removeprefix(CREDENTIAL)] = value
        if self.errors:
            return cleaned
        try:
            self.new_config = self._check(self.integration)
        except InvalidChangeError as error:
            for path, text, code in error.problems:
                self.add_error(self._field_at(path), ValidationError(text, code=code))
        return cleaned

    def _take_config(self, name: str, typed: str) -> None:
        short = name.removeprefix(CONFIG)
        fields = self.integration.config_fields if self.integration else ()
        (field,) = [one for one in fields if one.name == short]
        try:
            self.config_changes[short] = field.from_text(typed) if typed else None
        except ValueError as error:
            self.add_error(name, ValidationError(str(error), code="invalid"))

    def _check(self, integration: Integration) -> dict[str, Any]:
        if self.instance._state.adding:
            return check_creation(integration, self.config_changes, self.credential_changes)
        return check_update(self.instance, self.config_changes, self.credential_changes)

    def _field_at(self, path: tuple[str, ...]) -> str | None:
        prefix = {"config": CONFIG, "credentials": CREDENTIAL}.get(path[0], "")
        name = prefix + path[-1]
        return name if len(path) > 1 and name in self.fields else None


def forget_secret(form: forms.Form | ConnectionModelForm, name: str) -> bool:
    """Take what was typed into a field out of a form, if it looks like a secret."""
    key = form.add_prefix(name)
    try:
        refuse_secrets(str(form.data.get(key, "")))
    except SecretShapedError:
        form.data = form.data.copy()  # type: ignore[attr-defined]  # that of a request is immutable
        form.data[key] = ""  # type: ignore[index]
        return True
    return False


def _digest(config: dict[str, Any]) -> str:
    return sha256_hex(json.dumps(config, sort_keys=True))


def _as_text(value: Any) -> Any:
    if isinstance(value, list):
        return " ".join(map(str, value))
    if isinstance(value, dict):
        return "\n".join(f"{name} = {text}" for name, text in value.items())
    return value


def _config_field(field: ConfigField) -> forms.Field:
    several_lines = isinstance(field.default, dict)
    return forms.CharField(
        label=field.label,
        help_text=field.help_text,
        required=field.required,
        widget=forms.Textarea({"rows": 6, "cols": 80})
        if several_lines
        else forms.TextInput({"size": 60}),
    )


def form_for(integration: Integration | None) -> type[ConnectionForm]:
    """Make the form of a service; of an unknown one, the form without configuration."""
    if integration is None:
        return ConnectionForm
    fields: dict[str, Any] = {
        CONFIG + field.name: _config_field(field) for field in integration.config_fields
    }
    fields |= {
        CREDENTIAL + field.name: SecretField(
            label=field.label, help_text=field.help_text, required=field.required, max_length=65536
        )
        for field in integration.credential_fields
    }
    name = f"{type(integration).__name__}ConnectionForm"
    return type(name, (ConnectionForm,), {**fields, "integration": integration})


class RevealForm(forms.Form):
    """Asks again who it is, and why."""

    reason = forms.CharField(
        label=_("Reason"),
        min_length=10,
        max_length=500,
        help_text=_("It is kept, with your name, in the record of credential events."),
    )
    password = forms.CharField(
        label=_("Your password"),
        strip=False,
        widget=forms.PasswordInput({"autocomplete": "current-password"}),
    )

    def __init__(self, *args: Any, user: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.user = user

    def clean_password(self) -> str:
        check_password_again(self.user, self.cleaned_data["password"])
        return ""

    def clean_reason(self) -> str:
        reason: str = self.cleaned_data["reason"]
        try:
            refuse_secrets(reason)
        except SecretShapedError as error:
            forget_secret(self, "reason")
            raise ValidationError(str(error), code="secret_in_reason") from None
        return reason
