"""The sandboxes' networks: a small subnet for each, and the walls around it."""

from sandbox.network.policy import Destination, Policy, policy
from sandbox.network.ruleset import Count, Refusal, Wall
from sandbox.network.subnets import SUBNET_PREFIX, free_subnet, subnet_of
from sandbox.network.walls import Walls, WallsDown, WallState, require_bridge, walled, walls_fit

__all__ = [
    "SUBNET_PREFIX",
    "Count",
    "Destination",
    "Policy",
    "Refusal",
    "Wall",
    "WallState",
    "Walls",
    "WallsDown",
    "free_subnet",
    "policy",
    "require_bridge",
    "subnet_of",
    "walled",
    "walls_fit",
]
