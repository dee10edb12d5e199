"""What every engine promises."""

from concurrent.futures import ThreadPoolExecutor

import pytest

from caco_ray.config import FakeModel, OpenAiModel, SamplingConfig
from caco_ray.engines import Engine, build_engine
from caco_ray.errors import EngineError

GREEDY = SamplingConfig(temperature=0, max_tokens=12)
PROMPT = "Once upon a time there was"
CHAT = [{"role": "user", "content": "Say hello to the world."}]


def test_gives_n_completions_for_each_prompt_in_order(engine: Engine) -> None:
    prompts = ["word" + " word" * extra for extra in range(5)]
    replies = engine.generate(prompts, SamplingConfig(temperature=1, max_tokens=4), n=3, seeds=range(5))
    assert [len(reply) for reply in replies] == [3] * 5
    sizes = [[completion.n_prompt_tokens for completion in reply] for reply in replies]
    first = sizes[0][0]
    assert sizes == [[first + extra] * 3 for extra in range(5)]


def test_takes_text_messages_and_token_ids(engine: Engine) -> None:
    replies = engine.generate([PROMPT, CHAT, [40, 41, 42]], GREEDY)
    for (completion,) in replies:
        assert completion.finish_reason in ("stop", "length")
        assert completion.text and completion.error is None and completion.n_tokens >= 1
    assert replies[2][0].n_prompt_tokens == 3


def test_samples_of_one_prompt_differ_and_greedy_ones_do_not(engine: Engine) -> None:
    (hot,) = engine.generate([PROMPT], SamplingConfig(temperature=1, max_tokens=24), n=4, seeds=[7])
    (cold,) = engine.generate([PROMPT], GREEDY, n=2, seeds=[7])
    assert len({completion.text for completion in hot}) > 1
    assert cold[0].text == cold[1].text


def test_stops_at_the_token_limit_and_says_so(engine: Engine) -> None:
    ((completion,),) = engine.generate([PROMPT], SamplingConfig(temperature=0, max_tokens=3))
    assert (completion.finish_reason, completion.n_tokens) == ("length", 3)


def test_ends_before_a_stop_string(engine: Engine) -> None:
    ((free,),) = engine.generate([PROMPT], GREEDY)
    stop = free.text.split()[2]
    ((stopped,),) = engine.generate([PROMPT], SamplingConfig(temperature=0, max_tokens=12, stop=("never seen", stop)))
    assert (stopped.finish_reason, stopped.stop_reason) == ("stop", stop)
    assert stopped.text == free.text[: free.text.index(stop)]


def test_never_cuts_a_prompt_that_is_too_long(engine: Engine) -> None:
    long, short = engine.generate(["word " * 400, PROMPT], GREEDY, n=2)
    assert [(completion.finish_reason, completion.text, completion.n_tokens) for completion in long] == [("prompt_too_long", "", 0)] * 2
    assert all(completion.text for completion in short)


@pytest.mark.parametrize("bad", ["", [], [{"role": "user"}], [{"role": "user", "content": 3}], [1, "a"]], ids=repr)
def test_a_malformed_prompt_is_an_error_of_its_row_alone(engine: Engine, bad: object) -> None:
    failed, served = engine.generate([bad, PROMPT], GREEDY, n=2)  # type: ignore[list-item]
    assert [completion.finish_reason for completion in failed] == ["error"] * 2
    assert failed[0].error and failed[0].text == ""
    assert all(completion.text and completion.error is None for completion in served)


def test_threads_get_their_own_answers(engine: Engine) -> None:
    def ask(extra: int) -> list[int]:
        prompts = ["word" + " word" * (extra + index) for index in range(3)]
        return [reply[0].n_prompt_tokens for reply in engine.generate(prompts, SamplingConfig(temperature=1, max_tokens=6))]

    with ThreadPoolExecutor(8) as pool:
        sizes = list(pool.map(ask, range(16)))
    first = sizes[0][0]
    assert sizes == [[first + extra + index for index in range(3)] for extra in range(16)]


def test_counts_tokens_and_is_at_rest_afterwards(engine: Engine) -> None:
    before = engine.stats()
    replies = engine.generate([PROMPT, PROMPT], GREEDY)
    after = engine.stats()
    assert after.tokens - before.tokens == sum(reply[0].n_tokens for reply in replies)
    assert after.prompt_tokens - before.prompt_tokens == sum(reply[0].n_prompt_tokens for reply in replies)
    assert (after.running, after.waiting) == (0, 0)


def test_no_prompts_give_no_replies(engine: Engine) -> None:
    assert engine.generate([], GREEDY) == []


def test_refuses_a_call_that_makes_no_sense(engine: Engine) -> None:
    with pytest.raises(ValueError, match="n=0"):
        engine.generate([PROMPT], GREEDY, n=0)
    with pytest.raises(ValueError, match="1 seeds for 2 prompts"):
        engine.generate([PROMPT, PROMPT], GREEDY, seeds=[1])


def test_names_its_model(engine: Engine) -> None:
    assert engine.model_id.strip() and "\n" not in engine.model_id


@pytest.mark.parametrize("model", [FakeModel(), OpenAiModel(base_url="http://127.0.0.1:1/v1", model="m")], ids=["fake", "openai"])
def test_a_closed_engine_says_so(model: FakeModel | OpenAiModel) -> None:
    engine = build_engine(model, path=None, seed=0)
    engine.close()
    engine.close()
    with pytest.raises(EngineError, match="closed"):
        engine.generate([PROMPT], GREEDY)
