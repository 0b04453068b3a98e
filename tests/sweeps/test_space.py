"""The space holds exactly the legal configs, in one order, and finds the nearest."""

from __future__ import annotations

from itertools import product

import numpy as np
import pytest

from sweeps.errors import SpecError
from sweeps.space import Space, config_id
from tests.sweeps.toys import CHOICES, PROBLEM, TARGET, RuledToyFamily, ToyConfig, ToyFamily


def space(**restrictions: tuple[object, ...]) -> Space:
    return Space(ToyFamily(), PROBLEM, TARGET, restrictions)  # type: ignore[arg-type]


@pytest.mark.parametrize("family", [ToyFamily(), RuledToyFamily()])
def test_holds_exactly_the_legal_configs_in_product_order(family: ToyFamily) -> None:
    every = [dict(zip(CHOICES, values, strict=True)) for values in product(*CHOICES.values())]
    legal = [each for each in every if family.illegal_reason(PROBLEM, ToyConfig(**each), TARGET) is None]
    found = Space(family, PROBLEM, TARGET)
    assert found.size == len(every)
    assert [found.params(index) for index in range(len(found))] == legal
    assert [found.index(each) for each in legal] == list(range(len(legal)))


@pytest.mark.parametrize(
    "params",
    [
        {"tile": 64, "stages": 4, "mode": "plain", "early": False},  # illegal
        {"tile": 7, "stages": 1, "mode": "plain", "early": False},  # no such choice
        {"tile": 8, "stages": True, "mode": "plain", "early": False},  # True is not 1
        {"tile": 8},
    ],
)
def test_what_is_not_legal_has_no_index(params: dict[str, object]) -> None:
    assert space().index(params) is None


def test_restrictions_keep_a_subset() -> None:
    kept = space(tile=(32, 8), mode=("split",))
    assert {kept.params(i)["tile"] for i in range(len(kept))} == {8, 32}
    assert {kept.params(i)["mode"] for i in range(len(kept))} == {"split"}
    assert kept.size == 2 * 4 * 1 * 2


@pytest.mark.parametrize(
    ("restrictions", "message"),
    [
        ({"tiles": (8,)}, "toy has no parameter 'tiles': it has tile, stages, mode, early"),
        ({"tile": (8, 9)}, "toy: tile cannot be 9: its choices are 8, 16, 32, 64"),
        ({"early": (1,)}, "toy: early cannot be 1: its choices are false, true"),
        ({"mode": ()}, "toy: mode is restricted to no choice at all"),
        ({"tile": (64,), "stages": (2,)}, "toy: none of the 4 configs is legal for toy"),
    ],
)
def test_restrictions_that_make_no_sense_are_refused(
    restrictions: dict[str, tuple[object, ...]], message: str
) -> None:
    with pytest.raises(SpecError, match=f"^{message}$"):
        space(**restrictions)


def test_unknown_target_is_refused() -> None:
    with pytest.raises(SpecError, match=r"^toy has no target 'sm_1': it has sm_90a$"):
        Space(ToyFamily(), PROBLEM, "sm_1")


def test_nearest_differs_in_the_fewest_parameters_and_comes_from_those_allowed() -> None:
    found = space()
    rng = np.random.default_rng(0)
    proposal = {"tile": 64, "stages": 4, "mode": "split", "early": True}
    for among in (np.arange(len(found)), np.arange(0, len(found), 5)):
        index = found.nearest(proposal, among, rng)
        distances = [sum(found.params(int(i))[name] != proposal[name] for name in proposal) for i in among]
        assert index in among
        assert sum(found.params(index)[name] != proposal[name] for name in proposal) == min(distances)


def test_config_id_ignores_the_order_of_parameters_and_nothing_else() -> None:
    params = {"tile": 8, "stages": 1, "early": True}
    assert config_id(params) == config_id(dict(reversed(params.items())))
    assert config_id(params) != config_id({**params, "early": 1})
