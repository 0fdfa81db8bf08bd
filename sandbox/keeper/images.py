"""Resolves the profiles' image names with the engine, so that a new image is taken up between jobs."""

import time

from sandbox.engine import Engine
from sandbox.keeper.stock import Stock
from sandbox.logs import Action, Events
from sandbox.rollout import Rollout, short

events = Events("keeper")

LOOK_INTERVAL = 10.0
"""Seconds between two looks. People build images, so seldom is enough; each look is an engine call per profile."""


class Images:
    """The images of one keeper's profiles. Only the reconcile loop calls `look`."""

    def __init__(self, stock: Stock, engine: Engine) -> None:
        self._stock = stock
        self._engine = engine
        self._next_look = 0.0
        self._missing: set[str] = set()

    def look(self) -> None:
        """Resolve the names anew when it is time. Raises `EngineError`."""
        now = time.monotonic()
        if now < self._next_look:
            return
        self._next_look = now + LOOK_INTERVAL
        for profile in list(self._stock.pool.profiles):
            self._look_at(profile)

    def forgive(self) -> None:
        """Let refused images be tried again, and look at once. The caller holds the stock's lock."""
        for rollout in self._stock.pool.rollouts.values():
            rollout.forgive()
        self._next_look = 0.0

    def _look_at(self, profile: str) -> None:
        name = self._stock.pool.profiles[profile].image
        image = self._engine.image_id(name)
        if image is None:
            if name not in self._missing:
                what = f"the image {name} is gone; sandboxes are made from the last one"
                events.error(Action.IMAGE_GONE, f"profile {profile}: {what}")
            self._missing.add(name)
            return
        self._missing.discard(name)
        with self._stock.changed:
            rollouts = self._stock.pool.rollouts
            tried = rollouts[profile].candidate if profile in rollouts else None
            self._stock.pool.named(profile, image)
            rollout = rollouts[profile]
        if rollout.candidate and self._engine.image_id(rollout.image) is None:
            what = f"the image {short(rollout.image)} was removed; {name} takes its place"
            events.warning(Action.IMAGE_GONE, f"profile {profile}: {what}")
            with self._stock.changed:
                rollouts[profile] = Rollout(image)
        elif rollout.candidate and rollout.candidate != tried:
            what = f"{name} is a new image, {short(image)}; one sandbox tries it first"
            events.info(Action.IMAGE_TRIED, f"profile {profile}: {what}")
