"""Every table over the stages knows all of them: a new stage that is forgotten in one fails here."""

from typing import get_args

from caco_ray.config import STAGES, RepairName
from caco_ray.fingerprint import PARENTS
from caco_ray.ledger.trace import _TEXTS
from caco_ray.pipeline import STEPS
from caco_ray.repair import _CHILDREN, _CHILDREN_ENTIRE, _MODELS
from caco_ray.report import funnel
from caco_ray.run import FOLDERS
from caco_ray.schema import OF_STAGE
from caco_ray.stage_config import EXECUTES, MODELS, ROLES, TRAININGS

WITH_ROWS = set(STAGES) - {*TRAININGS, "report"}


def test_every_stage_has_its_step_its_folder_and_its_parents() -> None:
    assert set(FOLDERS) == set(STAGES)
    assert tuple(STEPS) == STAGES[:-1] == tuple(stage for stage in STAGES if stage in PARENTS) and set(PARENTS) == set(STEPS)


def test_every_stage_with_rows_has_a_schema_texts_and_can_be_repaired() -> None:
    assert set(OF_STAGE) == set(_TEXTS) == set(get_args(RepairName)) - {"all"} == WITH_ROWS
    assert set(MODELS) == set(ROLES) and set(EXECUTES) <= WITH_ROWS


def test_what_is_made_of_a_stage_is_the_reverse_of_what_it_is_made_of() -> None:
    children = {(parent, child) for parent in PARENTS for child in (*_CHILDREN.get(parent, ()), *_CHILDREN_ENTIRE.get(parent, ()))}
    children |= {(parent, model) for parent, model in _MODELS.items()}
    of_models = {(model, child) for model in TRAININGS for child in PARENTS if model in PARENTS[child]}
    optional = {("solve", "assemble"), ("select", "train_codegen")}  # without a judge; in later rounds
    assert children | of_models == {(parent, child) for child, parents in PARENTS.items() for parent in parents} | optional
    assert set(funnel._PARENTS.items()) <= {(child, parent) for parent, child in children}
