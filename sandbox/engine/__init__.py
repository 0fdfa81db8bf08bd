"""The only package that talks to the Docker Engine.

Every call has a deadline that ends it, in the thread that made it, whatever the engine does (`call`). The engine may
still finish a call that was given up. Names carry the generation, so a late create collides with nothing, and what it
made is found by its label.
"""

from sandbox.engine.api import (
    CALL_DEADLINE,
    PROBE_DEADLINE,
    REMOVE_DEADLINE,
    START_DEADLINE,
    Engine,
    Watch,
)
from sandbox.engine.facts import ContainerFacts, EngineFacts, ImageFacts, Owned
from sandbox.engine.refusal import ImageUnfit, NameTaken, NetworkMissing, StaleSocket, SubnetTaken

__all__ = [
    "CALL_DEADLINE",
    "PROBE_DEADLINE",
    "REMOVE_DEADLINE",
    "START_DEADLINE",
    "ContainerFacts",
    "Engine",
    "EngineFacts",
    "ImageFacts",
    "ImageUnfit",
    "NameTaken",
    "NetworkMissing",
    "Owned",
    "StaleSocket",
    "SubnetTaken",
    "Watch",
]
