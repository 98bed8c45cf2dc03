"""Who may talk to the page: this computer's browser, with the token, on the page itself."""

import secrets

from starlette.datastructures import Headers, MutableHeaders
from starlette.responses import PlainTextResponse
from starlette.types import ASGIApp, Message, Receive, Scope, Send

HOST = "127.0.0.1"
"""The only address that the page listens on."""

_HEADERS = {
    "Content-Security-Policy": (
        "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self'; "
        "connect-src 'self'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
    ),
    "Cache-Control": "no-store",
    "Cross-Origin-Opener-Policy": "same-origin",
    "Cross-Origin-Resource-Policy": "same-origin",
    "Referrer-Policy": "no-referrer",
    "X-Content-Type-Options": "nosniff",
}


class Guard:
    """ASGI middleware that refuses requests from elsewhere, and forbids the page to load anything.

    A request must have the page's own address as its host, which stops DNS rebinding; come from the
    page or from no page at all; and have the token as the first part of its path.

    Parameters
    ----------
    token
        Secret part of the address.
    port
        Port that the page is on.
    """

    def __init__(self, app: ASGIApp, token: str, port: int) -> None:
        self._app = app
        self._token = token.encode()
        self._host = f"{HOST}:{port}"

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer with 403, or pass the request on."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return

        async def send_guarded(message: Message) -> None:
            if message["type"] == "http.response.start":
                MutableHeaders(scope=message).update(_HEADERS)
            await send(message)

        refused = self._refuses(Headers(scope=scope), scope["path"])
        app = PlainTextResponse(f"{refused}\n", 403) if refused else self._app
        await app(scope, receive, send_guarded)

    def _refuses(self, headers: Headers, path: str) -> str:
        """Return the reason to refuse a request; empty if there is none."""
        if headers.getlist("host") != [self._host]:
            return f"this page is http://{self._host} only"
        origins = headers.getlist("origin")
        if origins not in ([], [f"http://{self._host}"]):
            return "other pages may not use this one"
        if headers.get("sec-fetch-site", "none") not in ("same-origin", "none"):
            return "other pages may not use this one: copy the address into the address bar"
        token = path.removeprefix("/").partition("/")[0].encode()
        if not secrets.compare_digest(token, self._token):
            return "the address lacks its token: copy the whole address from the terminal"
        return ""
