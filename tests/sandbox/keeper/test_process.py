"""What the keeper does about its signals."""

import signal
from unittest.mock import Mock, call

import pytest

from sandbox.keeper.keeper import Keeper
from sandbox.keeper.process import _hear_more
from sandbox.keeper.signals import Signals


@pytest.mark.parametrize(
    ("then", "done"), [(signal.SIGTERM, call.hurry()), (signal.SIGINT, call.hurry()), (signal.SIGUSR1, call.leave())]
)
def test_while_it_waits_for_jobs_only_a_second_term_ends_them(then: signal.Signals, done: object) -> None:
    keeper = Mock(Keeper)
    _hear_more(keeper, Mock(Signals, take=Mock(side_effect=[signal.SIGHUP, then])))
    assert keeper.method_calls == [done]
