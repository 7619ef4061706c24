"""What the OpenAPI description says about the authentication with API keys."""

from typing import Any

from drf_spectacular.extensions import OpenApiAuthenticationExtension

from apikeys.tokens import SCANNER_PATTERN


class ApiKeyScheme(OpenApiAuthenticationExtension):  # type: ignore[no-untyped-call]
    target_class = "apikeys.authentication.ApiKeyAuthentication"
    name = "apiKey"

    def get_security_definition(self, auto_schema: Any) -> dict[str, Any]:
        return {
            "type": "http",
            "scheme": "bearer",
            "bearerFormat": "API key",
            "description": (
                "A key of one project, in the Authorization header only. "
                f"Keys match `{SCANNER_PATTERN}`."
            ),
        }
