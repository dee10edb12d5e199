import json
from pathlib import Path

import pytest

from caco_ray.errors import UserError
from caco_ray.prompts import Segment, render
from caco_ray.raw_text import RawText, start_ids
from caco_ray.schema import Row
from caco_ray.training.base import load_tokenizer
from caco_ray.training.data import TokenFile, write_tokens
from caco_ray.training.examples import make_examples
from caco_ray.training.types import TrainingData
from tests.unit.training.conftest import examples, made_up, make_rows, settings


def test_learned_tokens_are_those_of_learned_segments(base: Path, tmp_path: Path) -> None:
    tokenizer = load_tokenizer(base)
    sequence = (Segment("<|im_start|>question\nWhat is 2 times 4?<|im_end|>\n", False), Segment("It is 8.<|im_end|>", True))
    data = [TrainingData("one", lambda: [{"row_id": "a"}], lambda row: [sequence])]
    write_tokens(data, tokenizer, settings(), tmp_path / "tokens.arrow")
    ids, learn = TokenFile(str(tmp_path / "tokens.arrow"))[0]
    assert tokenizer.decode(ids) == "".join(segment.text for segment in sequence)
    assert tokenizer.decode(ids[learn]) == "It is 8.<|im_end|>"
    assert list(ids).count(tokenizer.convert_tokens_to_ids("<|im_end|>")) == 2  # special tokens in text are single ids


def test_segments_meet_where_the_whole_text_would_be_cut(base: Path, tokens: Path) -> None:
    tokenizer = load_tokenizer(base)
    whole = [
        tokenizer("".join(part.text for part in sequence), add_special_tokens=False).input_ids
        for row in make_rows()
        for sequence in examples(row)
    ]
    file = TokenFile(str(tokens))
    assert [file[index][0].tolist() for index in range(len(file))] == whole


def test_special_tokens_that_a_row_spells_stay_text(base: Path, tmp_path: Path) -> None:
    tokenizer = load_tokenizer(base)
    row = {**make_rows(1)[0], "question": "What is <|endoftext|>?", "cot": "It <|endoftext|> is<|im_end|> 8."}
    write_tokens([made_up([row], roles=["solve"])], tokenizer, settings(roles=["solve"]), tmp_path / "tokens.arrow")
    ids, learn = TokenFile(str(tmp_path / "tokens.arrow"))[0]
    special = [tokenizer.decode([token]) for token in ids if token in tokenizer.added_tokens_decoder]
    assert special == ["<|im_start|>", "<|im_end|>", "<|im_start|>", "<|im_end|>"]
    assert tokenizer.decode(ids[learn]) == "It <|endoftext|> is<im_end> 8. The answer is \\boxed{0}.<|im_end|>"


@pytest.mark.parametrize("folder", ["markerless", "other_end"])
@pytest.mark.parametrize("prompts", ["alpaca", "trained"])
def test_what_is_learned_ends_in_a_token_at_which_generation_stops(
    prompts: str, folder: str, request: pytest.FixtureRequest, tmp_path: Path
) -> None:
    tokenizer, training = load_tokenizer(request.getfixturevalue(folder)), settings(prompts=prompts, roles=["solve"])
    rows = [{**row, "instruction": row["question"], "output": row["cot"]} for row in make_rows(1)]
    data = TrainingData("one", lambda: rows, make_examples(training))
    write_tokens([data], tokenizer, training, tmp_path / "tokens.arrow")
    ids, learn = TokenFile(str(tmp_path / "tokens.arrow"))[0]
    assert (ids[-1], bool(learn[-1])) == (tokenizer.eos_token_id, True)
    learned = "It is 0." if prompts == "alpaca" else "It is 0. The answer is \\boxed{0}."
    assert tokenizer.decode(ids[learn]) == f"{learned}<|endoftext|>"


def test_turns_inside_a_sequence_end_as_they_do_in_prompts_whatever_the_base_ends_in(other_end: Path, tmp_path: Path) -> None:
    """The whole sequence, but for its last token, is the prompt and the reply that a model of this base is served with."""
    tokenizer, row = load_tokenizer(other_end), make_rows(1)[0]
    raw, ids = RawText(tokenizer), []
    write_tokens([made_up([row])], tokenizer, settings(), tmp_path / "tokens.arrow")
    file = TokenFile(str(tmp_path / "tokens.arrow"))
    for role, reply in (("reverse", row["question"]), ("solve", f"{row['cot']} The answer is \\boxed{{0}}.")):
        ids.append([*raw.ids(render(role, "trained", row)), *raw.ids(reply), tokenizer.eos_token_id])
    assert [file[index][0].tolist() for index in range(len(file))] == ids
    end = tokenizer.convert_tokens_to_ids("<|im_end|>")
    assert [each.count(end) for each in ids] == [1, 1] and end != tokenizer.eos_token_id


def test_over_long_sequences_are_counted_named_and_never_cut(base: Path, tmp_path: Path) -> None:
    tokenizer = load_tokenizer(base)
    lengths = [len(tokenizer("".join(part.text for part in sequence)).input_ids) for row in make_rows() for sequence in examples(row)]
    limit = sorted(lengths)[len(lengths) // 2]
    stats = write_tokens([made_up()], tokenizer, settings(max_length=limit), tmp_path / "tokens.arrow")
    assert stats.examples + stats.skipped["too_long"] == len(lengths) == 2 * stats.rows
    assert sorted(TokenFile(str(tmp_path / "tokens.arrow")).lengths) == sorted(length for length in lengths if length <= limit)
    skipped = [json.loads(line) for line in (tmp_path / "skipped.jsonl").read_text().splitlines()]
    assert [entry["tokens"] > limit for entry in skipped] == [True] * stats.skipped["too_long"]


def test_every_row_that_gives_nothing_is_counted_and_named(base: Path, tmp_path: Path) -> None:
    good = make_rows(4)
    evaluated = [{**row, "row_id": f"e-{number}", "split": "heldout"} for number, row in enumerate(make_rows(3))]
    rows = [*good, *evaluated, {"row_id": "bare", "text": "x"}, {**good[0], "row_id": "empty", "question": None, "code": None}]
    stats = write_tokens([made_up(rows)], load_tokenizer(base), settings(), tmp_path / "tokens.arrow")
    assert (stats.rows, stats.examples, stats.skipped) == (9, 8, {"for_evaluation": 3, "no_columns": 2})
    skipped = [json.loads(line) for line in (tmp_path / "skipped.jsonl").read_text().splitlines()]
    assert [(entry["row_id"], entry["reason"]) for entry in skipped[2:]] == [
        ("e-2", "for_evaluation"), ("bare", "no_columns"), ("empty", "no_columns"),
    ]  # fmt: skip


def test_held_out_rows_are_the_same_in_every_training_and_of_all_their_examples(base: Path, tmp_path: Path) -> None:
    tokenizer, training = load_tokenizer(base), settings(heldout_fraction=0.3)
    stats = write_tokens([made_up()], tokenizer, training, tmp_path / "a.arrow")
    write_tokens([made_up(make_rows(48)[20:]), made_up()], tokenizer, training, tmp_path / "b.arrow")
    one, other = (TokenFile(str(tmp_path / name)) for name in ("a.arrow", "b.arrow"))
    sides = [dict(zip(file.row_ids(list(range(len(file)))), file.heldout.tolist(), strict=True)) for file in (one, other)]
    assert all(sides[1][row] == side for row, side in sides[0].items())
    assert len(set(zip(one.row_ids(list(range(len(one)))), one.heldout.tolist(), strict=True))) == 24
    assert 0 < one.heldout.sum() == stats.heldout < len(one)
    assert set(other.sources) == {0, 1}


def test_sequences_are_counted_by_data_set_and_role(base: Path, tmp_path: Path) -> None:
    seeds = make_rows(4)
    own = [{"row_id": f"p-{number}", "code": row["code"]} for number, row in enumerate(make_rows(3))]
    shipped = [{"row_id": f"s-{number}", "instruction": row["question"], "output": row["cot"]} for number, row in enumerate(make_rows(2))]
    data = [
        made_up([*seeds, {**seeds[0], "row_id": "no-cot", "cot": None}]),
        TrainingData("own", lambda: own, make_examples(settings(), roles=("sample",)), roles=("sample",)),
        TrainingData("shipped", lambda: shipped, make_examples(settings(), roles=("solve",)), roles=("solve",)),
    ]
    stats = write_tokens(data, load_tokenizer(base), settings(), tmp_path / "tokens.arrow")
    assert stats.sequences == {"made_up": {"sample": 5, "reverse": 5, "solve": 4}, "own": {"sample": 3}, "shipped": {"solve": 2}}
    assert stats.examples == 5 + 4 + 3 + 2


@pytest.mark.parametrize(
    ("rows", "changes", "message"),
    [
        ([{**row, "cot": None} for row in make_rows(3)], {}, "none of its 3 rows teaches the role solve .no row has cot.; leave the role out"),
        ([{"row_id": "a", "code": "print(1)"}], {"roles": ["sample", "reverse"]}, "teaches the role reverse .no row has question."),
        ([{"row_id": "a", "code": "print(1)"}], {"roles": ["sample", "solve"]}, "the role solve .no row has question or cot."),
        (
            [{"row_id": "a", "question": "1?", "code": "1"}, {"row_id": "b", "code": "1", "cot": "1"}],
            {"roles": ["sample", "solve"]},
            "the role solve .no row has all of question, cot.",
        ),
        ([{**row, "cot": "long " * 300} for row in make_rows(3)], {}, "the role solve .its 3 sequences are longer than max_length=256 tokens"),
    ],
)
def test_a_role_that_nothing_teaches_is_refused(rows: list[Row], changes: dict[str, object], message: str, base: Path, tmp_path: Path) -> None:
    """Else a model would be asked what it was never trained for."""
    with pytest.raises(UserError, match=f"training data made_up: .*{message}") as raised:
        write_tokens([made_up(rows, **changes)], load_tokenizer(base), settings(**changes), tmp_path / "tokens.arrow")
    assert "\n" not in str(raised.value) and not (tmp_path / "tokens.arrow").exists()


def test_tokens_of_an_interrupted_training_are_used_again_where_nothing_changed(base: Path, tmp_path: Path) -> None:
    from tokenizers import processors

    tokenizer, read = load_tokenizer(base), []

    def rows() -> list[Row]:
        read.append(1)
        return make_rows()

    def write(fingerprint: str | None, **changes: object) -> int:
        data = TrainingData("named", rows, examples, fingerprint=fingerprint)
        return write_tokens([data], tokenizer, settings(**changes), tmp_path / "tokens.arrow").examples

    assert write("a") == write("a", learning_rate=0.1) == 48 and len(read) == 1
    start = [("<|im_start|>", tokenizer.bos_token_id)]
    tokenizer.backend_tokenizer.post_processor = processors.TemplateProcessing(single="<|im_start|> $A", special_tokens=start)
    write("a")
    assert len(read) == 2
    write("b")
    write("b", max_length=250)
    write(None)
    write(None)
    assert len(read) == 6


@pytest.mark.parametrize(
    ("rows", "changes", "message"),
    [
        ([], {}, "training data made_up: no rows were kept"),
        (make_rows(), {"max_length": 16}, "made_up: none of 24 rows can be used .48 too_long"),
        ([{"row_id": "a", "text": "x"}], {}, "none of 1 rows can be used .1 no_columns; training prompts=trained, roles=sample,reverse,solve"),
        (make_rows(1), {"roles": ["solve"], "prompts": "alpaca"}, "1 no_columns; training prompts=alpaca"),
        ([{**make_rows(1)[0], "split": "heldout"}], {}, "none of 1 rows can be used .1 for_evaluation"),
        (make_rows(2), {"heldout_fraction": 0.01}, "heldout_fraction=0.01: holds out none of 4 examples"),
    ],
)
def test_an_unusable_data_set_is_one_clear_line(rows: list[Row], changes: dict[str, object], message: str, base: Path, tmp_path: Path) -> None:
    with pytest.raises(UserError, match=message):
        write_tokens([made_up(rows, **changes)], load_tokenizer(base), settings(**changes), tmp_path / "tokens.arrow")
    assert not (tmp_path / "tokens.arrow").exists()


def test_a_domain_tag_is_learned_as_the_first_line_of_the_program(base: Path, tmp_path: Path) -> None:
    rows = [{**row, "domain": "number\ntheory" if number else None} for number, row in enumerate(make_rows(2))]
    for fallback, expected in ((None, ["", "# Domain: number theory\n"]), ("algebra", ["# Domain: algebra\n", "# Domain: number theory\n"])):
        training = settings(domain_tags=True, roles=["sample"])
        data = TrainingData("tagged", lambda: rows, make_examples(training, fallback))
        tokenizer, path = load_tokenizer(base), tmp_path / f"{fallback}.arrow"
        write_tokens([data], tokenizer, training, path)
        file = TokenFile(str(path))
        assert [tokenizer.decode(ids[learn]) for ids, learn in (file[0], file[1])] == [
            tag + row["code"] + "<|im_end|>" for tag, row in zip(expected, rows, strict=True)
        ]


def test_what_the_tokenizer_puts_before_text_is_kept(base: Path) -> None:
    from tokenizers import processors

    tokenizer = load_tokenizer(base)
    assert start_ids(tokenizer) == []
    bos = tokenizer.bos_token_id
    tokenizer.backend_tokenizer.post_processor = processors.TemplateProcessing(
        single="<|im_start|> $A", special_tokens=[("<|im_start|>", bos)]
    )
    assert start_ids(tokenizer) == [bos]
