"""The page's addresses, and the server that answers them."""

import secrets
import socket
import tempfile
from collections.abc import Callable
from pathlib import Path

import uvicorn
from starlette.applications import Starlette
from starlette.concurrency import run_in_threadpool
from starlette.requests import ClientDisconnect, Request
from starlette.responses import FileResponse, JSONResponse, Response, StreamingResponse
from starlette.routing import Mount, Route
from starlette.staticfiles import StaticFiles
from starlette.types import ASGIApp

from sr_quant_cli.errors import FailedError, SrqError, UsageError
from sr_quant_cli.inference.options import RunOptions
from sr_quant_cli.system.files import cache_dir, scratch
from sr_quant_cli.web.archive import zipped
from sr_quant_cli.web.guard import HOST, Guard
from sr_quant_cli.web.pictures import Limits, PagePictures
from sr_quant_cli.web.settings import in_labels, offered, read_settings

_STATIC = Path(__file__).parent / "static"
_MOST_SETTINGS = 2**14
"""Largest size of settings in bytes."""
_PATIENCE_S = 2
"""Seconds that downloads get to finish when the server stops."""


def serve(
    opened: Callable[[str], None],
    *,
    port: int | None = None,
    options: RunOptions | None = None,
    limits: Limits | None = None,
) -> None:
    """Serve the page until an interrupt; pictures and results are then removed.

    Parameters
    ----------
    opened
        Called with the address of the page as soon as it answers.
    port
        Port to listen on; None: a free one.
    options
        Options of running the models.
    limits
        Limits on pictures and results.

    Raises
    ------
    UsageError
        The port is not free.
    """
    with (
        _listen(port) as listening,
        scratch(cache_dir() / "app") as folder,
        PagePictures(folder, options, limits or Limits()) as pictures,
    ):
        token, bound = secrets.token_urlsafe(24), listening.getsockname()[1]
        config = uvicorn.Config(
            page(pictures, token, bound),
            lifespan="off",
            ws="none",
            log_config=None,
            access_log=False,
            server_header=False,
            timeout_graceful_shutdown=_PATIENCE_S,
        )
        opened(f"http://{HOST}:{bound}/{token}/")
        uvicorn.Server(config).run(sockets=[listening])


def page(pictures: PagePictures, token: str, port: int) -> ASGIApp:
    """Make the ASGI application of the page."""
    routes = Mount(
        "/{token}",
        routes=[
            Route("/", _index),
            Mount("/static", StaticFiles(directory=_STATIC)),
            Route("/offered", _offered),
            Route("/pictures", _state),
            Route("/pictures", _upload, methods=["POST"]),
            Route("/pictures/{number:int}", _remove, methods=["DELETE"]),
            Route("/pictures/{number:int}/enlarge", _enlarge, methods=["POST"]),
            Route("/pictures/{number:int}/stop", _stop, methods=["POST"]),
            Route("/pictures/{number:int}/{view:str}.png", _view),
            Route("/pictures/{number:int}/result", _result),
            Route("/results.zip", _results),
        ],
    )
    app = Starlette(routes=[routes], exception_handlers={SrqError: _failed})
    app.state.pictures = pictures
    return Guard(app, token, port)


def _listen(port: int | None) -> socket.socket:
    listening = socket.socket(socket.AF_INET, socket.SOCK_STREAM)
    try:
        listening.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listening.bind((HOST, port or 0))
        listening.listen()
    except OSError as error:
        listening.close()
        raise UsageError(
            f"cannot listen there: {error.strerror}", field="port", value=port
        ) from error
    return listening


def _pictures(request: Request) -> PagePictures:
    pictures: PagePictures = request.app.state.pictures
    return pictures


def _number(request: Request) -> int:
    number: int = request.path_params["number"]
    return number


async def _failed(_request: Request, error: Exception) -> Response:
    return _answer(in_labels(str(error)), 400 if isinstance(error, UsageError) else 500)


def _index(_request: Request) -> Response:
    return FileResponse(_STATIC / "index.html")


def _offered(request: Request) -> Response:
    limits = _pictures(request).limits
    most = {"pictures": limits.pictures, "bytes": limits.bytes}
    return JSONResponse({**offered(), "limits": most})


def _state(request: Request) -> Response:
    return JSONResponse(_pictures(request).to_json())


async def _upload(request: Request) -> Response:
    """Receive one file: its content is the body, its name ``?name=``."""
    pictures = _pictures(request)
    pictures.check_room()
    most = pictures.limits.bytes
    try:
        with tempfile.TemporaryDirectory(dir=pictures.folder) as folder:
            path = Path(folder) / "upload"
            with path.open("wb") as file:
                async for part in request.stream():
                    file.write(part)
                    if file.tell() > most:
                        return _answer(f"the file is larger than {most // 2**20:,} MiB", 413)
            picture = await run_in_threadpool(
                pictures.add, request.query_params.get("name", ""), path
            )
    except OSError as error:
        raise FailedError(f"cannot keep the picture: {error.strerror or error}") from error
    except ClientDisconnect:
        return _answer("the upload was broken off", 400)
    return JSONResponse(picture.to_json(), 201)


async def _enlarge(request: Request) -> Response:
    body = b""
    async for part in request.stream():
        body += part
        if len(body) > _MOST_SETTINGS:
            return _answer("the settings are too long", 413)
    settings = await run_in_threadpool(read_settings, body)
    _pictures(request).enlarge(_number(request), settings)
    return Response(status_code=202)


def _stop(request: Request) -> Response:
    _pictures(request).stop(_number(request))
    return Response(status_code=204)


def _remove(request: Request) -> Response:
    _pictures(request).remove(_number(request))
    return Response(status_code=204)


def _view(request: Request) -> Response:
    """Send a picture as the page shows it: ``before``, ``thumbnail`` or ``after``."""
    picture = _pictures(request).find(_number(request))
    drawn = {"before": picture.before, "thumbnail": picture.thumbnail}
    if picture.result is not None:
        drawn["after"] = picture.result.view
    view = drawn.get(request.path_params["view"])
    return _answer("there is no such view", 404) if view is None else FileResponse(view)


def _result(request: Request) -> Response:
    """Send the file of a result to be saved."""
    result = _pictures(request).find(_number(request)).result
    if result is None:
        return _answer("there is no result yet", 404)
    return FileResponse(result.path, filename=result.name)


def _results(request: Request) -> Response:
    """Send all results as one archive."""
    results = _pictures(request).results()
    if not results:
        return _answer("there are no results yet", 404)
    saved = {"Content-Disposition": 'attachment; filename="enlarged.zip"'}
    return StreamingResponse(zipped(results), media_type="application/zip", headers=saved)


def _answer(problem: str, status: int) -> Response:
    return JSONResponse({"error": problem}, status)
