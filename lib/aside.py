"""Threads apart from the event loop's own: what is asked of them never waits behind a database that does not answer."""

from __future__ import annotations

import asyncio
import contextvars
import os
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from typing import ParamSpec, TypeVar

_Parameters = ParamSpec("_Parameters")
_Result = TypeVar("_Result")
_threads = ThreadPoolExecutor((os.cpu_count() or 1) + 4, thread_name_prefix="aside")


async def aside(work: Callable[_Parameters, _Result], *args: _Parameters.args, **kwargs: _Parameters.kwargs) -> _Result:
    """As `asyncio.to_thread`, for work that ends by itself: it computes, or it reads and writes files."""
    context = contextvars.copy_context()
    call = partial(context.run, work, *args, **kwargs)
    return await asyncio.get_running_loop().run_in_executor(_threads, call)
