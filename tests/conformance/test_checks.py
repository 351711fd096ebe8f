"""Every check of the conformance suite can fail: wrong wrapping functions, in one process."""

import pytest
import wrong_wrappers

from qvtune.conformance.checks import CHECKS
from qvtune.conformance.suite import check_here
from qvtune.conformance.ways import Way

# The wrapper, and lines that have to fail for it, and may fail beside them.
RATES = {"rate of every parameter", "λ", "rate of the head"}
CASES = {
    "one_rate": {"rate of every parameter", "λ", "rate of the head", "losses"},
    "ratio_upside_down": {"rate of every parameter", "λ", "losses"},
    "head_at_the_querys_rate": {"rate of every parameter", "rate of the head", "losses"},
    "no_weight_decay": {"weight decay by parameter"},
    "decayed_biases": {"weight decay by parameter"},
    "an_empty_group": {"no empty group"},
    "a_lost_parameter": {"rate of every parameter"},
    "halved_gradients": {"gradient norm", "uneven accumulation"},
    "unclipped": {"clipping", "losses"},
    "last_pass_alone": {"uneven accumulation"},
    "forgetful": {"checkpoint and resume"},
    "other_outputs_in_evaluation": {"metrics, uneven set"},
    "breaks": set(CHECKS),
}
UNTOUCHED = {
    "no_weight_decay": RATES,
    "an_empty_group": set(CHECKS) - {"no empty group"},
    "halved_gradients": RATES | {"weight decay by parameter"},
    "unclipped": {*RATES, "gradient norm", "weight decay by parameter"},
    "last_pass_alone": set(CHECKS) - {"uneven accumulation"},
    "forgetful": set(CHECKS) - {"checkpoint and resume"},
}


@pytest.mark.parametrize("name", CASES)
def test_a_wrong_wrapper_fails_the_right_line(name: str) -> None:
    report = check_here([Way(name, getattr(wrong_wrappers, name))], "cpu")
    failed = {cell.check for cell in report.failed}
    assert failed >= CASES[name]
    assert failed.isdisjoint(UNTOUCHED.get(name, set()))


def test_a_right_wrapper_passes_every_line() -> None:
    report = check_here([Way("mine", wrong_wrappers.right)], "cpu")
    assert [cell.check for cell in report.cells] == list(CHECKS)
    assert {cell.status for cell in report.cells} == {"passed"}, report


def test_the_failure_says_what_was_found() -> None:
    report = check_here([Way("mine", wrong_wrappers.one_rate)], "cpu")
    by_check = {cell.check: cell.detail for cell in report.failed}
    assert "value.lora_A.default.weight has 0.01, not 0.04" in by_check["rate of every parameter"]
    assert "has 0.01, not 0.003" in by_check["rate of the head"]
    assert "mine: FAILED, λ: " in str(report)
