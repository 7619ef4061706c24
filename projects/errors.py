"""Errors of the REST API beyond those that REST framework has, and how they are documented."""

from collections.abc import Mapping
from typing import Any

from django.utils.translation import gettext_lazy as _
from rest_framework import serializers, status
from rest_framework.exceptions import APIException


class Conflict(APIException):
    """409: the state of the object forbids it."""

    status_code = status.HTTP_409_CONFLICT
    default_code = "conflict"
    default_detail = _("The state of the object does not allow this.")


class PreconditionFailed(APIException):
    """412: the object is not what ``If-Match`` says."""

    status_code = status.HTTP_412_PRECONDITION_FAILED
    default_code = "precondition_failed"
    default_detail = _("The object was changed since you read it. Read it again.")


class FailedDependency(APIException):
    """424: something that the request depends on cannot be used."""

    status_code = status.HTTP_424_FAILED_DEPENDENCY
    default_code = "failed_dependency"
    default_detail = _("Something that this depends on cannot be used.")


class ErrorSerializer(serializers.Serializer[Any]):
    code = serializers.CharField()
    detail = serializers.CharField()
    attr = serializers.CharField(allow_null=True)


class ErrorReplySerializer(serializers.Serializer[Any]):
    """The shape of every reply whose status is 400 or above."""

    type = serializers.CharField()
    errors = ErrorSerializer(many=True)  # type: ignore[assignment]  # the field of that name


#: For ``extend_schema(responses={200: ..., **errors(400, 409)})``. What REST framework itself
#: answers (401, 403, 404, 405, 406, 415, 429, 500) is documented for every endpoint anyway.
def errors(*statuses: int) -> Mapping[int, type[ErrorReplySerializer]]:
    """Document error replies of an endpoint by their status."""
    return dict.fromkeys(statuses, ErrorReplySerializer)
