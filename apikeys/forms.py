"""The forms of the admin site for API keys and AI keys."""

import uuid
from datetime import timedelta
from typing import TYPE_CHECKING, Any

from django import forms
from django.contrib.admin.widgets import AdminSplitDateTime
from django.core.exceptions import ValidationError

from apikeys import restrictions, tokens
from apikeys.models import AIKey, ApiKey
from apikeys.scopes import Scope
from encryption.forms import SecretField

if TYPE_CHECKING:
    ApiKeyModelForm = forms.ModelForm[ApiKey]
    AIKeyModelForm = forms.ModelForm[AIKey]
else:
    ApiKeyModelForm = AIKeyModelForm = forms.ModelForm


class NetworksField(forms.CharField):
    """Networks, one a line."""

    widget = forms.Textarea

    def to_python(self, value: Any) -> Any:
        return (super().to_python(value) or "").split()

    def validate(self, value: Any) -> None:
        restrictions.clean_networks(value)

    def run_validators(self, value: Any) -> None:
        """None: those of a text do not fit a list."""


class NewApiKeyForm(ApiKeyModelForm):
    """What is decided when a key is created, and not changed later."""

    # The id of the key is chosen when the form is shown. Sent twice (a reload, a double click),
    # it cannot create a second key that nobody sees.
    request_id = forms.UUIDField(widget=forms.HiddenInput, initial=uuid.uuid4)
    kind = forms.ChoiceField(choices=[(kind, kind) for kind in tokens.KINDS])
    scopes = forms.MultipleChoiceField(choices=Scope.choices, widget=forms.CheckboxSelectMultiple)
    allowed_networks = NetworksField(
        required=False,
        help_text="One a line, as 203.0.113.0/24; none means any address.",
    )
    expires_at = forms.SplitDateTimeField(required=False, widget=AdminSplitDateTime)

    class Meta:
        model = ApiKey
        fields = ("project", "name", "kind", "scopes", "allowed_networks", "expires_at")

    def clean_name(self) -> str:
        return restrictions.clean_name(self.cleaned_data["name"])

    def clean_expires_at(self) -> Any:
        expires_at = self.cleaned_data["expires_at"] or restrictions.default_expiry()
        return restrictions.clean_expiry(expires_at)


class RenameForm(ApiKeyModelForm):
    class Meta:
        model = ApiKey
        fields = ("name",)

    def clean_name(self) -> str:
        return restrictions.clean_name(self.cleaned_data["name"])


class RotationForm(forms.Form):
    overlap_hours = forms.IntegerField(
        label="Overlap in hours",
        min_value=0,
        max_value=restrictions.MAXIMUM_OVERLAP // timedelta(hours=1),
        initial=24,
        help_text="For how long the old key stays valid, unless it expires before.",
    )


class AIKeyForm(AIKeyModelForm):
    owner_id: Any = None  # whose new key it is; the admin says so

    api_key = SecretField(label="Key", nullable=False)

    class Meta:
        model = AIKey
        fields = ("provider", "api_key")

    def clean_api_key(self) -> Any:
        api_key = self.cleaned_data["api_key"]
        if isinstance(api_key, str) and tokens.contains_key(api_key):
            raise ValidationError("This is a key to this site's API.", code="api_key")
        return api_key

    def clean_provider(self) -> str:
        provider: str = self.cleaned_data["provider"]
        if AIKey.objects.filter(user=self.owner_id, provider=provider).exists():
            raise ValidationError("You have a key to this provider: change that.", code="unique")
        return provider
