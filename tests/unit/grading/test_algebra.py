"""The algebra process: what hangs, dies or does not fit costs one answer and is never recorded as a wrong one."""

import os
import signal
import sys
import threading

import pytest

from caco_ray.errors import CacoError
from caco_ray.grading import Algebra, ExecutedAnswer, Verdict, answers_agree


@pytest.fixture(scope="module")
def quick():
    with Algebra(cpu_s=1) as algebra:
        yield algebra


def test_formulas_are_compared_exactly(algebra):
    assert algebra(r"\frac{2}{\sqrt{2}}", r"\sqrt{2}", False) is Verdict.AGREE
    assert algebra("0.1+0.2", "0.3", False) is Verdict.AGREE
    assert algebra("e^{-100}", "e^{-101}", False) is Verdict.DISAGREE
    assert algebra("10^{-20}x", r"2 \cdot 10^{-20}x", False) is Verdict.DISAGREE
    assert algebra("1.0000001 x", "x", False) is Verdict.DISAGREE
    assert algebra("not (a formula", "5", False) is Verdict.DISAGREE


def test_what_does_not_fit_in_memory_is_undecided():
    with Algebra(cpu_s=1, memory_mb=1024) as small:
        assert small("2^{2^{37}}+1", "4^{2^{36}}+1", False) is Verdict.UNDECIDED


@pytest.mark.parametrize("formula", ["9" * 500, "10^{1000000}", "(1000000)!", "5!!!", "x+" * 400 + "x"])
def test_oversized_formulas_are_refused_without_a_process(formula):
    algebra = Algebra()
    assert algebra(formula, "5", False) is Verdict.DISAGREE
    assert algebra._child is None


def test_a_killed_process_is_replaced(quick):
    assert quick(r"\sqrt{16}", "4", False) is Verdict.AGREE
    os.kill(quick._child.pid, signal.SIGKILL)
    assert quick(r"\sqrt{16}", "4", False) is Verdict.AGREE


def test_threads_share_one_process(algebra):
    verdicts = {}

    def ask(number):
        verdicts[number] = algebra(rf"\sqrt{{{number * number}}}", str(number), False)

    threads = [threading.Thread(target=ask, args=(number,)) for number in range(1, 9)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert verdicts == dict.fromkeys(range(1, 9), Verdict.AGREE)


def test_the_process_sees_no_keys_and_is_gone_after_close(monkeypatch):
    monkeypatch.setenv("OPENAI_API_KEY", "secret")
    algebra = Algebra()
    assert algebra(r"\sqrt{16}", "4", False) is Verdict.AGREE
    pid = algebra._child.pid
    with open(f"/proc/{pid}/environ", "rb") as environ:
        assert b"secret" not in environ.read()
    algebra.close()
    with pytest.raises(ProcessLookupError):
        os.kill(pid, 0)


def test_a_process_that_cannot_start_is_an_error_not_a_verdict(monkeypatch):
    monkeypatch.setattr(sys, "executable", "/bin/false")
    with pytest.raises(CacoError, match="did not start"):
        Algebra()(r"\sqrt{16}", "4", False)


def test_a_formula_that_never_ends_leaves_the_answer_undecided(quick):
    executed = ExecutedAnswer.from_json("[1,5]")
    assert answers_agree("1, 9^{9^{9^9}}", executed, quick) is Verdict.UNDECIDED
    assert answers_agree("2, 9^{9^{9^9}}", executed, quick) is Verdict.DISAGREE  # a wrong item settles it
    assert answers_agree(r"1, \sqrt{25}", executed, quick) is Verdict.AGREE  # and the next question is answered
