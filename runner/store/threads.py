"""The store's own threads: a name server or a keeper that hangs takes none of them, so that outcomes are written.

Readers and writers have separate threads: writers wait for each other, and for anybody who holds the database locked.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from typing import Final, ParamSpec, TypeVar

_READING: Final = ThreadPoolExecutor(2, thread_name_prefix="store-read")
_WRITING: Final = ThreadPoolExecutor(4, thread_name_prefix="store-write")
"""One thread at a time has the database; the others sync logs to disk meanwhile, or parse what they have read."""

_P = ParamSpec("_P")
_T = TypeVar("_T")


async def reading(call: Callable[_P, _T], *args: _P.args, **options: _P.kwargs) -> _T:
    """Call a function that reads the store, as `asyncio.to_thread` does."""
    return await asyncio.get_running_loop().run_in_executor(_READING, partial(call, *args, **options))


async def writing(call: Callable[_P, _T], *args: _P.args, **options: _P.kwargs) -> _T:
    """Call a function that writes the store, as `asyncio.to_thread` does."""
    return await asyncio.get_running_loop().run_in_executor(_WRITING, partial(call, *args, **options))
