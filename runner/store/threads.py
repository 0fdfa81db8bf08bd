"""The store's own threads: a name server or a keeper that hangs takes none of them, and outcomes are written."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from typing import Final, ParamSpec, TypeVar

_THREADS: Final = ThreadPoolExecutor(4, thread_name_prefix="store")
"""There is one writer and one reader of the database; the others sync logs meanwhile."""

_P = ParamSpec("_P")
_T = TypeVar("_T")


async def on_thread(call: Callable[_P, _T], *args: _P.args, **options: _P.kwargs) -> _T:
    """As `asyncio.to_thread`, for whatever reads or writes the store."""
    return await asyncio.get_running_loop().run_in_executor(_THREADS, partial(call, *args, **options))
