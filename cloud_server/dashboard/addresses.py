"""Addresses of the pages: where somebody may be sent to, and which page something is sent from."""

from __future__ import annotations

from typing import Final
from urllib.parse import unquote, urlsplit

from flask import current_app, request
from werkzeug.exceptions import HTTPException

PREFIX: Final = "/console"
SUFFIX: Final = ".json"
HTMX: Final = "HX-Request"
_FIRST: Final = f"{PREFIX}/overview"
_LIVE: Final = "/live"  # parts of a page that ask for themselves
_LIVE_VIEWS: Final = "console.live_"
_SAFE: Final = frozenset({"GET", "HEAD"})


def local_path(text: str) -> str:
    """Return a path of the pages that somebody may be sent to, the first page for anything else.

    What is only a part of a page leads to the page; what only takes forms leads to the first page.
    """
    if not text.startswith(f"{PREFIX}/") or not text.isascii() or not text.isprintable() or "\\" in text:
        return _FIRST
    path, mark, query = text.partition("?")
    view = _view_of(path)
    if "//" in path or not view:
        return _FIRST
    return (path.removesuffix(_LIVE) if view.startswith(_LIVE_VIEWS) else path) + mark + query


def here() -> str:
    """Return the address of the page that somebody looks at: what parts and forms of it send is no page by itself."""
    own = request.full_path.rstrip("?")
    if HTMX not in request.headers and (request.method in _SAFE or _view_of(request.path)):
        return own if request.method in _SAFE else request.path
    try:
        url = urlsplit(request.headers.get("HX-Current-URL") or request.referrer or "")
    except ValueError:
        return _FIRST
    if url.netloc != request.host:
        return local_path(own) if request.method in _SAFE else _FIRST
    return local_path(f"{url.path}?{url.query}" if url.query else url.path)


def as_json(address: str) -> str:
    """Return where a page is found as JSON, empty where it is not."""
    path, mark, query = address.partition("?")
    path = path if path.endswith(SUFFIX) else path + SUFFIX
    return path + mark + query if _view_of(path) else ""


def _view_of(path: str) -> str:
    """Return the name of what answers GET at a path, empty for nothing."""
    try:
        view, _ = current_app.url_map.bind("").match(unquote(path), "GET")
    except HTTPException:
        return ""
    return str(view)
