"""How a branch goes on from its prefix: its learning rate, and where the prefix is found again."""

from __future__ import annotations

from types import SimpleNamespace

import pytest
from test_branches import FIELDS, WHOLE, node_of
from test_planning import catalogue

from curricle.planning import compile_plan
from curricle.recipe import RECIPES
from curricle.running import beginning
from curricle.running.adoption import state_folder
from curricle.schedule import learning_rate
from curricle.store import COMPLETE, Store, read_json
from curricle.study import Refused, Study


def cooldown(warmup: dict, own: dict):
    fields = {**FIELDS, "stages": {**FIELDS["stages"]}, "recipe": {"batch_tokens": 64, **warmup}}
    fields["stages"]["cool"] = {**fields["stages"]["cool"], "recipe": own}
    plan = compile_plan(Study(**fields), catalogue())
    return plan.nodes[plan.paths["cooled", 0][1]]


@pytest.mark.parametrize("warmup", [{}, {"warmup_tokens": 2000}, {"warmup_share": 0.2}])
def test_a_branch_is_warm_and_a_cooldown_cools(warmup):
    """Also where the study says a warm-up in tokens, as it must for a prefix to keep its name."""
    cool = cooldown(warmup, {"schedule": "wsd", "decay_share": 1})
    rates = [learning_rate(cool.recipe, step, cool.steps) / cool.recipe.learning_rate for step in range(cool.steps)]
    assert rates == pytest.approx([1 - step / cool.steps for step in range(cool.steps)])


def test_a_warm_up_that_a_branch_asks_for_is_made():
    assert cooldown({}, {"warmup_share": 0.5}).recipe.warmup_share == 0.5
    assert cooldown({"warmup_share": 0.1}, {"warmup_tokens": 128}).recipe.warmup_tokens == 128


@pytest.mark.parametrize(("recipe", "fault"), [
    ({"warmup_tokens": 4096}, "a warm-up of 8 steps is not over before the last of its 8"),
    ({"warmup_tokens": 1_000_000}, "a warm-up of 1,953 steps is not over"),
    ({"warmup_tokens": 2048, "schedule": "wsd", "decay_share": 0.75},
     "a warm-up of 4 steps is not over before the rate falls, after step 2 of its 8"),
])  # fmt: skip
def test_a_warm_up_that_its_stage_has_no_room_for_is_refused(recipe, fault):
    with pytest.raises(Refused, match=rf"stages\.math\.recipe\.warmup_tokens: {fault}"):
        node_of(WHOLE, recipe={"batch_tokens": 512, **recipe})
    node_of(WHOLE, recipe={"batch_tokens": 512, **recipe, "warmup_tokens": 512})


def test_a_prefix_is_noted_again_where_the_run_that_had_it_is_gone(tmp_path):
    prepared = SimpleNamespace(store=Store(tmp_path))
    first, second, third = (SimpleNamespace(states={4: "abc"}, run=f"math/{n}") for n in (1, 2, 3))
    beginning.register(prepared, first, 4)
    beginning.register(prepared, second, 4)
    file = tmp_path / "states" / "abc.json"
    assert read_json(file)["run"] == "math/2", "of math/1 there is no state"
    kept = state_folder(prepared.store.run_folder("math/2"), 4)
    kept.mkdir(parents=True)
    (kept / COMPLETE).touch()
    beginning.register(prepared, third, 4)
    assert read_json(file)["run"] == "math/2"


@pytest.mark.parametrize("recipe", RECIPES.values(), ids=RECIPES)
def test_a_published_batch_can_be_shared_out_over_whole_nodes(recipe):
    rows, rest = divmod(recipe["batch_tokens"], 4096)
    assert rest == 0 and all(rows % ranks == 0 for ranks in (2, 4, 8, 16, 32, 64, 128))
