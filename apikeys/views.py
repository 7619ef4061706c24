"""The REST endpoints of API keys and AI keys. None of them is open to API keys."""

from datetime import timedelta
from typing import Any

from django.db.models import QuerySet
from django.http import Http404
from drf_spectacular.utils import OpenApiParameter, extend_schema, extend_schema_view
from rest_framework import mixins, status, viewsets
from rest_framework.decorators import action
from rest_framework.request import Request
from rest_framework.response import Response
from rest_framework.serializers import BaseSerializer

from apikeys import tokens
from apikeys.models import Actor, AIKey, ApiKey, ApiKeyStateError
from apikeys.serializers import (
    AIKeySerializer,
    ApiKeySerializer,
    CreationSerializer,
    NewAIKeySerializer,
    NewApiKeySerializer,
    NoContentSerializer,
    RenameSerializer,
    RotationSerializer,
)
from projects.errors import Conflict, errors
from projects.permissions import Need, Person, ProjectPermission, ProjectScoped
from projects.roles import Role
from projects.throttling import CallerThrottled

MANAGE = Need(Role.ADMIN)


@extend_schema_view(
    list=extend_schema(
        summary="The API keys of a project",
        responses={200: ApiKeySerializer(many=True), **errors(400)},
    ),
    retrieve=extend_schema(summary="Read what is known of an API key"),
    create=extend_schema(
        summary="Create an API key; it is shown once, here",
        request=CreationSerializer,
        responses={201: NewApiKeySerializer, **errors(400)},
    ),
    partial_update=extend_schema(
        summary="Rename an API key",
        request=RenameSerializer,
        responses={200: ApiKeySerializer, **errors(400)},
    ),
    destroy=extend_schema(summary="Revoke an API key and take it off the list"),
)
class ApiKeyViewSet(
    ProjectScoped,
    mixins.ListModelMixin,
    mixins.RetrieveModelMixin,
    viewsets.GenericViewSet[ApiKey],
):
    queryset = ApiKey.objects.none()
    serializer_class = ApiKeySerializer
    permission_classes = (ProjectPermission,)
    lookup_url_kwarg = "api_key_id"
    lookup_value_converter = "uuid"
    needs = dict.fromkeys(
        ("list", "retrieve", "create", "partial_update", "destroy", "rotate", "revoke"), MANAGE
    )

    def get_queryset(self) -> QuerySet[ApiKey]:
        return (
            ApiKey.objects.listed()
            .filter(project=self.project)
            .select_related("created_by", "successor", "project")
        )

    def create(self, request: Request, **kwargs: Any) -> Response:
        serializer = self._valid(CreationSerializer)
        key, token = ApiKey.objects.issue(
            project=self.project, by=self._actor, **serializer.validated_data
        )
        return _shown_once(key, token)

    def partial_update(self, request: Request, **kwargs: Any) -> Response:
        key = self.get_object()
        key.rename(self._valid(RenameSerializer).validated_data["name"], by=self._actor)
        return Response(ApiKeySerializer(key).data)

    def destroy(self, request: Request, **kwargs: Any) -> Response:
        self.get_object().remove(by=self._actor)
        return Response(status=status.HTTP_204_NO_CONTENT)

    @extend_schema(
        summary="Replace an API key; the new one is shown once, here",
        request=RotationSerializer,
        responses={201: NewApiKeySerializer, **errors(400, 409)},
    )
    @action(detail=True, methods=["post"])
    def rotate(self, request: Request, **kwargs: Any) -> Response:
        key = self.get_object()
        wanted = self._valid(RotationSerializer).validated_data
        try:
            successor, token = key.rotate(
                timedelta(hours=wanted["overlap_hours"]),
                by=self._actor,
                expires_at=wanted.get("expires_at"),
            )
        except ApiKeyStateError as error:
            raise Conflict(str(error), code=error.code) from None
        return _shown_once(successor, token)

    @extend_schema(
        summary="Make an API key invalid for good; again if you like",
        request=None,
        responses={200: ApiKeySerializer, **errors(400)},
    )
    @action(detail=True, methods=["post"])
    def revoke(self, request: Request, **kwargs: Any) -> Response:
        key = self.get_object()
        self._valid(NoContentSerializer)
        key.revoke(by=self._actor)
        return Response(ApiKeySerializer(key).data)

    @property
    def _actor(self) -> Actor:
        return Actor.of_user(self.request.user)

    def _valid(self, serializer_class: type[BaseSerializer[Any]]) -> BaseSerializer[Any]:
        serializer = serializer_class(data=self.request.data, context=self.get_serializer_context())
        serializer.is_valid(raise_exception=True)
        return serializer


def _shown_once(key: ApiKey, token: tokens.Token) -> Response:
    key.token = token  # type: ignore[attr-defined]
    return Response(
        NewApiKeySerializer(key).data,
        status=status.HTTP_201_CREATED,
        headers={"Cache-Control": "no-store"},
    )


@extend_schema(
    parameters=[OpenApiParameter("provider", str, "path", enum=AIKey.Provider.values)],
)
class AIKeyView(CallerThrottled):
    """The caller's own key to a provider of AI models."""

    permission_classes = (Person,)

    @extend_schema(
        summary="Whether your key to an AI provider is set, and since when",
        responses=AIKeySerializer,
    )
    def get(self, request: Request, provider: str) -> Response:
        provider = _known(provider)
        key = AIKey.objects.filter(user=request.user.pk, provider=provider).first()
        return Response(AIKeySerializer(_state(provider, key)).data)

    @extend_schema(
        summary="Store your key to an AI provider",
        request=NewAIKeySerializer,
        responses={200: NewAIKeySerializer, 201: NewAIKeySerializer, **errors(400)},
    )
    def put(self, request: Request, provider: str) -> Response:
        provider = _known(provider)
        serializer = NewAIKeySerializer(data=request.data)
        serializer.is_valid(raise_exception=True)
        text = serializer.validated_data["api_key"]
        key, created = AIKey.objects.update_or_create(
            user=request.user, provider=provider, defaults={"api_key": text}
        )
        state = _state(provider, key) | {"warnings": key.doubts()}
        return Response(
            NewAIKeySerializer(state).data,
            status=status.HTTP_201_CREATED if created else status.HTTP_200_OK,
        )

    @extend_schema(summary="Delete your key to an AI provider", responses={204: None})
    def delete(self, request: Request, provider: str) -> Response:
        AIKey.objects.filter(user=request.user.pk, provider=_known(provider)).delete()
        return Response(status=status.HTTP_204_NO_CONTENT)


def _known(provider: str) -> str:
    if provider not in AIKey.Provider.values:
        raise Http404
    return provider


def _state(provider: str, key: AIKey | None) -> dict[str, Any]:
    return {
        "provider": provider,
        "set": key is not None,
        "created_at": key and key.created_at,
        "updated_at": key and key.updated_at,
    }
