"""Every attack is asserted not correct, with the same container fit for honest work afterwards."""

from __future__ import annotations

import pytest

from sandbox import Pool
from sandbox.attacks import Attack, attacks
from sandbox.probe import honest, job, survives

ATTACKS = attacks()


@pytest.mark.parametrize("attack", ATTACKS, ids=lambda attack: attack.name)
def test_attack_is_not_correct_and_leaves_the_container_fit(attack: Attack, pool: Pool, database: str) -> None:
    replaced = len(pool.replaced)
    got, fine = survives(attack, list(pool.map([job(attack, database), *honest(attack.name, database)])))
    assert fine, got
    assert pool.replaced[replaced:] == []


def test_there_are_attacks_of_every_kind() -> None:
    names = [attack.name for attack in ATTACKS]
    assert len(names) == len(set(names)) >= 60
