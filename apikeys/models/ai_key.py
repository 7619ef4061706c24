"""Users' own keys to AI providers."""

from django.conf import settings
from django.db import models

from encryption.fields import BlindIndexField, EncryptedTextField
from encryption.managers import EncryptedManager

#: The keys that the providers hand out have 40 characters and more.
SHORTEST_KEY = 20


class AIKey(models.Model):
    """A user's own key to an AI provider, encrypted for that user."""

    class Provider(models.TextChoices):
        OPENAI = "openai", "OpenAI"
        ANTHROPIC = "anthropic", "Anthropic"

        def doubts(self, api_key: str) -> list[str]:
            """Say why a text may be no key of this provider; none of it is repeated.

            The providers promise no format, so these are warnings and no more.
            """
            begins = {"openai": "sk-", "anthropic": "sk-ant-"}[self.value]
            doubts = []
            if not api_key.startswith(begins):
                doubts.append(f"Keys of {self.label} usually begin with {begins}")
            if self is type(self).OPENAI and api_key.startswith("sk-ant-"):
                doubts.append("This looks like a key of Anthropic.")
            if len(api_key) < SHORTEST_KEY:
                doubts.append(f"Keys of {self.label} are longer than this.")
            if not api_key.isascii() or not api_key.isprintable() or " " in api_key:
                doubts.append("Keys have no spaces, line breaks or letters beyond ASCII.")
            return doubts

    user = models.ForeignKey(
        settings.AUTH_USER_MODEL, on_delete=models.CASCADE, related_name="ai_keys"
    )
    provider = models.CharField(max_length=20, choices=Provider)
    api_key = EncryptedTextField("key", salt_field="user")
    api_key_index = BlindIndexField("api_key", normalize="strip")
    created_at = models.DateTimeField(auto_now_add=True)
    updated_at = models.DateTimeField(auto_now=True)

    objects = EncryptedManager()

    class Meta:
        verbose_name = "AI key"
        ordering = ("provider",)
        constraints = [
            models.UniqueConstraint(
                fields=["user", "provider"], name="apikeys_one_ai_key_per_provider"
            ),
        ]

    def __str__(self) -> str:
        return f"{self.get_provider_display()} key of user {self.user_id}"

    def doubts(self) -> list[str]:
        """Say why the key may be a mistake; none of it is repeated.

        Raises:
            DecryptionError: it cannot be read.
        """
        doubts = self.Provider(self.provider).doubts(self.api_key)
        same = AIKey.objects.filter(user=self.user_id, api_key=self.api_key).exclude(pk=self.pk)
        doubts += [f"Your key to {other.get_provider_display()} is the same one." for other in same]
        return doubts
