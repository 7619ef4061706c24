"""Every route of the site, as its URL conf has them: new ones are tested without being named."""

from collections.abc import Iterator

from django.urls import URLPattern, URLResolver, get_resolver


def routes() -> list[str]:
    """The routes, in order; what a route is made of stands in angle brackets."""
    return sorted(set(_below(get_resolver())))


def _below(resolver: URLResolver, prefix: str = "") -> Iterator[str]:
    for pattern in resolver.url_patterns:
        route = prefix + str(pattern.pattern)
        if isinstance(pattern, URLResolver):
            yield from _below(pattern, route)
        elif isinstance(pattern, URLPattern):
            yield route
