"""The warm pool: first come, first served."""

from collections.abc import Iterable
from dataclasses import replace

from hypothesis import given
from hypothesis import strategies as st

from sandbox.pool import Lease, Want
from tests.sandbox.test_pool import ALICE, World


def test_who_came_first_is_served_first() -> None:
    """The trap: whoever looked first had it, and who had waited for ten minutes was told that there was none."""
    world = World()
    world.ready()
    first, late = (Want("default", key, came) for key, came in (("bob", 1.0), ("alice", 2.0)))
    lease = Lease("a1", "token-of-a1", 0.0)
    assert world.pool.lend(late, lease, 3.0, [late, first]) is None
    assert world.pool.lend(first, lease, 3.0, [late, first])


def test_who_came_first_does_not_keep_others_from_what_is_not_for_him() -> None:
    world = World()
    name = world.ready()
    world.serve(ALICE, "a1")
    world.ready()
    bob, alice = Want("default", "bob", 1.0), Want("default", "alice", 2.0)
    lent = world.pool.lend(alice, Lease("a2", "token-of-a2", 0.0), 3.0, [bob, alice])
    assert lent is not None
    assert lent.name == name


def test_a_key_that_always_has_somebody_waiting_does_not_keep_another_out() -> None:
    """The trap: what was to be thrown away for the other key was lent again before anybody got to that."""
    world = World(warm=1)
    name = world.ready()
    world.serve(ALICE, "a1")
    bob, alice = Want("default", "bob", 1.0), Want("default", "alice", 2.0)
    assert world.pool.lend(alice, Lease("a2", "token-of-a2", 0.0), 3.0, [bob, alice]) is None
    assert [s.name for s in world.pool.to_evict([bob, alice])] == [name]


_SANDBOXES = st.lists(st.tuples(st.sampled_from([None, "alice", "bob"]), st.integers(0, 3)), max_size=5)
_KEYS = st.lists(st.sampled_from(["alice", "bob", "carol"]), max_size=6)


@given(sandboxes=_SANDBOXES, keys=_KEYS, data=st.data())
def test_whoever_looks_first_each_gets_what_is_theirs_in_the_order_in_which_they_came(
    sandboxes: list[tuple[str | None, int]], keys: list[str], data: st.DataObject
) -> None:
    wants = [Want("default", key, float(came)) for came, key in enumerate(keys)]

    def share_out(looks: Iterable[Want]) -> dict[Want, str]:
        """Who gets which, when they look in this order."""
        world, waiting, got = World(warm=5), list(wants), dict[Want, str]()
        for key, since in sandboxes:
            name = world.ready(since)
            if key:
                sandbox = world.pool.get(name)
                assert sandbox is not None
                world.pool.adopt(replace(sandbox, trust_key=key, served=float(since)), since)
                world.pool.fit(name, since)
        for want in looks:
            attempt = f"a{want.came}"
            if want in waiting and (lent := world.pool.lend(want, Lease(attempt, attempt, 0.0), 9.0, waiting)):
                waiting.remove(want)
                got[want] = lent.name
        return got

    looks = [want for _ in wants for want in data.draw(st.permutations(wants))]
    assert share_out(looks) == share_out(wants)
