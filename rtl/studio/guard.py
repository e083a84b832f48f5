"""Keeps strangers out: the studio answers its own page, opened with the token, and nobody else.

A browser sends cookies along with requests that other pages cause, and another name can be made to
point at this address. So each request must name this host, carry the cookie that the link with the
token sets, and, where it changes something, come from a page of this origin (OWASP: Cross-Site
Request Forgery Prevention; DNS rebinding).
"""

from __future__ import annotations

import hmac
from http.cookies import CookieError, SimpleCookie
from urllib.parse import parse_qs

from starlette.datastructures import Headers, MutableHeaders
from starlette.responses import JSONResponse, PlainTextResponse, RedirectResponse, Response
from starlette.types import ASGIApp, Message, Receive, Scope, Send

SAFE = ("GET", "HEAD")

HEADERS = {
    # Labels and file names are untrusted: even with a bug in the page they must run no script.
    "Content-Security-Policy": (
        "default-src 'none'; script-src 'self'; style-src 'self'; connect-src 'self'; "
        "img-src 'self' data: blob:; frame-src 'self'; base-uri 'none'; form-action 'none'; "
        "frame-ancestors 'none'"
    ),
    "X-Content-Type-Options": "nosniff",
    "Referrer-Policy": "no-referrer",
    "Cross-Origin-Resource-Policy": "same-origin",
    "Cache-Control": "no-cache",
}
"""Headers of every answer that does not set its own."""

LOCKED = (
    "The studio opens by its link. Open the address that `rtl studio` printed in the "
    "terminal, with its token.\n"
)


class Guard:
    """ASGI middleware that refuses requests of other hosts, other origins, and without the token.

    `host` is the studio's own, such as `127.0.0.1:8010`.
    """

    def __init__(self, app: ASGIApp, *, host: str, token: str) -> None:
        self._app = app
        port = host.rsplit(":", 1)[1]
        self._hosts = {host, f"localhost:{port}", f"127.0.0.1:{port}", f"[::1]:{port}"}
        self._token = token
        self._cookie = f"rtl_studio_{port}"

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """See ASGI."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        refusal = self._refuse(scope)

        async def send_with_headers(message: Message) -> None:
            if message["type"] == "http.response.start":
                headers = MutableHeaders(scope=message)
                for name, value in HEADERS.items():
                    headers.setdefault(name, value)
            await send(message)

        await (refusal or self._app)(scope, receive, send_with_headers)

    def _refuse(self, scope: Scope) -> Response | None:
        """The answer to a request that goes no further; None for one that may."""
        headers = Headers(scope=scope)
        if headers.get("host", "") not in self._hosts:
            return JSONResponse({"error": "This is not the studio's own address."}, 421)
        given = parse_qs(scope["query_string"].decode("latin-1")).get("token", [""])[0]
        if scope["path"] == "/" and given and self._matches(given):
            return self._welcome()
        if not self._matches(self._carried(headers)):
            if scope["path"].startswith("/api/"):
                return JSONResponse({"error": LOCKED.strip()}, 401)
            return PlainTextResponse(LOCKED, 401)
        if scope["method"] not in SAFE and not self._own_page(headers):
            return JSONResponse({"error": "Another page may not change anything here."}, 403)
        return None

    def _matches(self, given: str) -> bool:
        return hmac.compare_digest(given.encode(), self._token.encode())

    def _carried(self, headers: Headers) -> str:
        """The token of a request's cookie or `Authorization: Bearer`; empty without one."""
        kind, _, bearer = headers.get("authorization", "").partition(" ")
        if kind.lower() == "bearer":
            return bearer.strip()
        try:
            found = SimpleCookie(headers.get("cookie", "")).get(self._cookie)
        except CookieError:
            return ""
        return found.value if found else ""

    def _own_page(self, headers: Headers) -> bool:
        """Whether a request comes from a page of this origin, or from no page at all."""
        origin = headers.get("origin")
        if origin is not None and origin != f"http://{headers['host']}":
            return False
        return headers.get("sec-fetch-site", "same-origin") in ("same-origin", "none")

    def _welcome(self) -> Response:
        """Sets the cookie and takes the token out of the address, away from history and looks."""
        answer = RedirectResponse("/", 303)
        answer.set_cookie(self._cookie, self._token, httponly=True, samesite="strict")
        return answer
