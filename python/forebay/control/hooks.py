"""Users' functions: found in their files, called away from the control loop, with a deadline and a limit.

Async functions run on a loop of their own, plain ones in a thread each. A function that hangs costs its callers their
deadline and holds one of `CALLS_MAX` places; it never holds up the console, other functions of the other kind, or
traffic.
"""

from __future__ import annotations

import asyncio
import importlib
import importlib.util
import inspect
import sys
import threading
from collections.abc import Callable, Iterable
from concurrent.futures import Future
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType
from typing import Any, Final

from forebay.api.secret_source import MARK, Marked, SecretSource
from forebay.failure import Failure

CALLS_MAX: Final = 64
# How long `close` waits for the loop: an async function that blocks it is left behind as well.
CLOSE_S: Final = 1.0


class HookFailed(Exception):
    """A function raised, took too long or could not be called; the text is for the log and holds no result."""


@dataclass(frozen=True, slots=True)
class Hook:
    """A marked function. name: `file.py:function` for the log."""

    name: str
    function: SecretSource
    deadline_s: float | None


def load_hooks(places: Iterable[str]) -> list[Hook]:
    """The marked functions of each place, in the order in which they are defined.

    places: paths of Python files (`*.py`) or names of modules.
    Raises Failure when one can't be loaded or marks nothing.
    """
    hooks: list[Hook] = []
    for place in places:
        found = list(_marked(place, _load(place)))
        if not found:
            raise Failure(f"{place} has no function marked @forebay.secret_source", hint="Mark one, or leave it out.")
        hooks.extend(found)
    return hooks


def _load(place: str) -> ModuleType:
    if place.endswith(".py") and not Path(place).is_file():
        raise Failure(f"there is no file {place}", hint="Name a Python file, or a module, with --load.")
    try:
        if not place.endswith(".py"):
            return importlib.import_module(place)
        path = Path(place).resolve()
        spec = importlib.util.spec_from_file_location(f"forebay_hooks_{path.stem}", path)
        if spec is None or spec.loader is None:
            raise ImportError(f"{path} is not a Python file")
        module = importlib.util.module_from_spec(spec)
        sys.modules[spec.name] = module
        spec.loader.exec_module(module)
        return module
    except Exception as error:
        # Whatever a user's file raises while it is read belongs in a sentence, not in a traceback of ours.
        raise Failure(f"{place} could not be loaded: {type(error).__name__}: {error}") from error


def _marked(place: str, module: ModuleType) -> Iterable[Hook]:
    for name, value in vars(module).items():
        mark = getattr(value, MARK, None)
        if isinstance(mark, Marked) and callable(value):
            yield Hook(f"{Path(place).name}:{name}", value, mark.deadline_s)


class HookRunner:
    """Calls users' functions. One for the life of the service."""

    def __init__(self) -> None:
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._serve, name="forebay-hooks", daemon=True)
        self._places = threading.BoundedSemaphore(CALLS_MAX)
        self._thread.start()

    async def call(self, hook: Hook, argument: Any, *, deadline_s: float) -> Any:
        """The function's result. Raises HookFailed when it raises, or does not answer in time."""
        if not self._places.acquire(blocking=False):
            raise HookFailed(f"{CALLS_MAX} calls are still under way")
        future = self._begin(hook.function, argument)
        future.add_done_callback(lambda _: self._places.release())
        seconds = deadline_s if hook.deadline_s is None else min(hook.deadline_s, deadline_s)
        try:
            return await asyncio.wait_for(asyncio.wrap_future(future), seconds)
        except TimeoutError:
            raise HookFailed(f"no answer within {seconds:g} s") from None
        except Exception as error:
            raise HookFailed(f"it raised {type(error).__name__}") from error

    def close(self) -> None:
        """Stops the loop. Functions that hang are left behind: their threads end with the process."""
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join(CLOSE_S)

    def _begin(self, function: Callable[[Any], Any], argument: Any) -> Future[Any]:
        if inspect.iscoroutinefunction(function):
            return asyncio.run_coroutine_threadsafe(function(argument), self._loop)
        future: Future[Any] = Future()
        threading.Thread(
            target=_run_plain, args=(function, argument, future, self._loop), name="forebay-hook", daemon=True
        ).start()
        return future

    def _serve(self) -> None:
        asyncio.set_event_loop(self._loop)
        self._loop.run_forever()
        left = asyncio.all_tasks(self._loop)
        for task in left:
            task.cancel()
        self._loop.run_until_complete(asyncio.gather(*left, return_exceptions=True))
        self._loop.close()


def _run_plain(
    function: Callable[[Any], Any], argument: Any, future: Future[Any], loop: asyncio.AbstractEventLoop
) -> None:
    if not future.set_running_or_notify_cancel():
        return
    try:
        result = function(argument)
        if inspect.isawaitable(result):
            # A plain function that returns a coroutine, such as functools.partial of an async one.
            result = asyncio.run_coroutine_threadsafe(_awaited(result), loop).result()
        future.set_result(result)
    except BaseException as error:
        future.set_exception(error)


async def _awaited(value: Any) -> Any:
    return await value
