"""The admin's pages about rotations: the records of the runs, and the state of every column.

Nothing can be changed here, and nothing here is secret: key ids name keys and do not tell them.
"""

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from functools import wraps
from typing import TYPE_CHECKING, Any, Final

from django.contrib import admin
from django.core.exceptions import ImproperlyConfigured, PermissionDenied
from django.db.models import QuerySet
from django.http import HttpRequest, HttpResponse
from django.template.response import TemplateResponse
from django.urls import URLPattern, path, reverse
from django.utils.html import format_html, format_html_join
from django.utils.safestring import SafeString
from django.utils.translation import gettext, gettext_lazy as _, ngettext

from encryption.conf import get_keyring
from encryption.core.keyring import Keyring
from encryption.models import RotationRun
from encryption.runs import written_text
from encryption.status import (
    PLAINTEXT,
    V1,
    ColumnStatus,
    missing_key_text,
    missing_keys,
    statuses,
)

if TYPE_CHECKING:
    RunAdmin = admin.ModelAdmin[RotationRun]
else:
    RunAdmin = admin.ModelAdmin

#: Which permission opens the page (it comes with the model's migration).
VIEW_STATUS: Final = "encryption.view_status"

_WIDTH: Final = 400
_HEIGHT: Final = 16


@dataclass(frozen=True)
class Share:
    """One piece of a column's bar."""

    name: str
    count: int
    kind: str
    color: str


#: By what a share is: its colour, which reads on light and dark pages, and its name.
_KINDS: Final[Mapping[str, tuple[str, Any]]] = {
    "primary": ("#2e7d32", _("primary key")),
    "fallback": ("#f9a825", _("fallback key, to be rotated")),
    "v1": ("#1565c0", _("format v1, which names no key")),
    "plaintext": ("#8e24aa", _("plaintext or v1, to be encrypted")),
    "missing": ("#c62828", _("key that the keyring lacks")),
}


def shares_of(status: ColumnStatus, keyring: Keyring) -> list[Share]:
    """Split a column's rows by the state of the key that they are under."""
    known = keyring.key_ids()
    found = []
    for name, count in status.keys.items():
        if name in {V1, PLAINTEXT}:
            kind = name
        elif name not in known:
            kind = "missing"
        else:
            kind = "primary" if name == known[0] else "fallback"
        found.append(Share(name, count, kind, _KINDS[kind][0]))
    order = list(_KINDS)
    return sorted(found, key=lambda share: order.index(share.kind))


def bar(shares: list[Share], label: str) -> SafeString:
    """Draw the shares of one column as an SVG bar."""
    total = sum(share.count for share in shares)
    told = ", ".join(f"{share.count} {share.name}" for share in shares) or gettext("no values")
    return format_html(
        '<svg viewBox="0 0 {0} {1}" width="{0}" height="{1}" role="img" aria-label="{2}">'
        '<rect width="{0}" height="{1}" fill="none" stroke="currentColor" stroke-opacity="0.4"/>'
        "{3}</svg>",
        _WIDTH,
        _HEIGHT,
        f"{label}: {told}",
        format_html_join(
            "",
            '<rect x="{}" width="{}" height="{}" fill="{}"><title>{}</title></rect>',
            (
                (f"{x:.2f}", f"{width:.2f}", _HEIGHT, share.color, f"{share.name}: {share.count}")
                for x, width, share in _placed(shares, total)
            ),
        ),
    )


def _placed(shares: list[Share], total: int) -> Iterator[tuple[float, float, Share]]:
    x = 0.0
    for share in shares:
        width = _WIDTH * share.count / total
        yield x, width, share
        x += width


@admin.register(RotationRun)
class RotationRunAdmin(RunAdmin):
    """What was rotated, by whom, and what could not be read. Read-only."""

    list_display = (
        "started_at",
        "state",
        "started_by",
        "to_key_id",
        "rotated",
        "failed",
        "dry_run",
    )
    list_filter = ("status", "dry_run")
    change_list_template = "admin/encryption/rotationrun/change_list.html"
    fields = (
        "state",
        "started_by",
        "started_at",
        "updated_at",
        "finished_at",
        "dry_run",
        "from_key_ids",
        "to_key_id",
        "write_format",
        "counts",
        "failed_rows",
        "tasks",
    )
    readonly_fields = fields

    def get_queryset(self, request: HttpRequest) -> QuerySet[RotationRun]:
        """The runs; the parts of one are on its page."""
        return super().get_queryset(request).filter(part_of=None)

    def has_view_permission(self, request: HttpRequest, obj: Any = None) -> bool:
        """Whoever may see the status may see the runs."""
        return super().has_view_permission(request, obj) or _may(request)

    def has_add_permission(self, request: HttpRequest) -> bool:
        """Runs record themselves."""
        return False

    def has_change_permission(self, request: HttpRequest, obj: Any = None) -> bool:
        """A record stays as it was written."""
        return False

    def has_delete_permission(self, request: HttpRequest, obj: Any = None) -> bool:
        """A record stays."""
        return False

    # -- what is shown ------------------------------------------------------------------------

    @admin.display(description=_("status"), ordering="status")
    def state(self, run: RotationRun) -> str:
        """The status, and whether a run that should go on seems to be dead."""
        if run.is_silent:
            return gettext("no sign of life since %(at)s: killed, or hanging") % {
                "at": f"{run.updated_at:%Y-%m-%d %H:%M:%S} UTC"
            }
        return run.get_status_display()

    @admin.display(description=_("rotated"))
    def rotated(self, run: RotationRun) -> int:
        """Rows of all columns that were written."""
        return sum(counts["rotated"] for counts in run.columns)

    @admin.display(description=_("failed"))
    def failed(self, run: RotationRun) -> int:
        """Rows of all columns that cannot be decrypted."""
        return sum(counts["failed"] for counts in run.columns)

    @admin.display(description=_("columns"))
    def counts(self, run: RotationRun) -> str:
        """A line for each column."""
        return format_html_join(
            "",
            "<div>{} [{}]: {}</div>",
            (
                (
                    counts["column"],
                    counts["database"],
                    gettext(
                        "%(examined)s examined, %(written)s, %(changed_meanwhile)s changed "
                        "meanwhile, %(failed)s failed"
                    )
                    % {**counts, "written": written_text(counts, dry_run=run.dry_run)}
                    + (f" ({counts['error']})" if "error" in counts else ""),
                )
                for counts in run.columns
            ),
        )

    @admin.display(description=_("failures"))
    def failed_rows(self, run: RotationRun) -> str:
        """A line for each row that cannot be decrypted."""
        return format_html_join(
            "",
            "<div>{} [{}] pk={}: {}</div>",
            ((one["label"], one["database"], one["pk"], one["reason"]) for one in run.failures),
        )

    @admin.display(description=_("tasks"))
    def tasks(self, run: RotationRun) -> str:
        """A line for each task of a run over Celery."""
        return format_html_join(
            "",
            "<div>{} ({} &ndash; {}): {}</div>",
            (
                (
                    part.scope["column"],
                    part.scope["after"] or "",
                    part.scope["upto"] or "",
                    self.state(part),
                )
                for part in run.parts.order_by("pk")
                if part.scope
            ),
        )

    # -- the page of the status ---------------------------------------------------------------

    def get_urls(self) -> list[URLPattern]:
        """The page beside the list."""
        view = self.admin_site.admin_view(self.status_view)
        return [path("status/", view, name="encryption_status"), *super().get_urls()]

    def changelist_view(self, request: HttpRequest, extra_context: Any = None) -> HttpResponse:
        """Show the link to the page to those who may follow it."""
        context = {**(extra_context or {}), "may_view_status": _may(request)}
        return super().changelist_view(request, context)

    def status_view(self, request: HttpRequest) -> HttpResponse:
        """One bar for each encrypted column."""
        if not _may(request):
            raise PermissionDenied
        context = {
            **self.admin_site.each_context(request),
            "opts": self.opts,
            "title": gettext("Encryption status"),
            **_status_context(),
        }
        return TemplateResponse(request, "admin/encryption/status.html", context)


# -- the link on the admin's index --------------------------------------------------------------


def install() -> None:
    """Have every admin site that shows the runs list the page of the status beside them, for who
    may see it; calling it again changes nothing."""
    original = admin.AdminSite.get_app_list
    if not hasattr(original, "_encryption_wrapper"):
        wrapped = wraps(original)(_with_status(original))
        wrapped._encryption_wrapper = True  # type: ignore[attr-defined]
        admin.AdminSite.get_app_list = wrapped  # type: ignore[method-assign]


def _with_status(original: Callable[..., list[Any]]) -> Callable[..., list[Any]]:
    def get_app_list(
        self: admin.AdminSite, request: HttpRequest, app_label: str | None = None
    ) -> list[Any]:
        found = original(self, request, app_label)
        for app in found:
            if app["app_label"] == RotationRun._meta.app_label and _may(request):
                app["models"].append(
                    {
                        "model": RotationRun,
                        "name": gettext("Encryption status"),
                        "object_name": "EncryptionStatus",
                        "perms": {"add": False, "change": False, "delete": False, "view": True},
                        "admin_url": reverse("admin:encryption_status", current_app=self.name),
                        "add_url": None,
                        "view_only": True,
                    }
                )
        return found

    return get_app_list


def _may(request: HttpRequest) -> bool:
    return request.user.has_perm(VIEW_STATUS)


def _status_context() -> dict[str, Any]:
    try:
        keyring = get_keyring()
        found = list(statuses())
    except ImproperlyConfigured as error:
        return {"problem": str(error)}
    primary, *fallbacks = keyring.key_ids()
    missing = missing_keys(found, keyring)
    rows = []
    for status in found:
        shares = shares_of(status, keyring)
        rows.append(
            {"status": status, "shares": shares, "bar": bar(shares, status.label)},
        )
    stale = sum(status.stale for status in found)
    return {
        "rows": rows,
        "legend": [{"color": color, "name": name} for color, name in _KINDS.values()],
        "primary": primary,
        "fallbacks": ", ".join(fallbacks),
        "write_format": keyring.write_format,
        "missing": [missing_key_text(key_id, count) for key_id, count in missing.items()],
        "stale": ngettext("%(count)s row is stale.", "%(count)s rows are stale.", stale)
        % {"count": stale},
    }
