import json
from pathlib import Path

import pytest

from caco_ray.errors import UserError
from caco_ray.prompts import Segment
from caco_ray.schema import Row
from caco_ray.training.base import load_tokenizer
from caco_ray.training.data import TokenFile, start_ids, write_tokens
from tests.unit.training.conftest import examples, make_rows


def test_learned_tokens_are_those_of_learned_segments(base: Path, tmp_path: Path) -> None:
    tokenizer = load_tokenizer(base)
    sequence = (Segment("<|im_start|>question\nWhat is 2 times 4?<|im_end|>\n", False), Segment("It is 8.<|im_end|>", True))
    write_tokens(lambda: [{"row_id": "a"}], lambda row: [sequence], tokenizer, 64, tmp_path / "tokens.arrow")
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


def test_over_long_sequences_are_counted_named_and_never_cut(base: Path, tmp_path: Path) -> None:
    tokenizer = load_tokenizer(base)
    lengths = [len(tokenizer("".join(part.text for part in sequence)).input_ids) for row in make_rows() for sequence in examples(row)]
    limit = sorted(lengths)[len(lengths) // 2]
    stats = write_tokens(make_rows, examples, tokenizer, limit, tmp_path / "tokens.arrow")
    assert stats.examples + stats.skipped["too_long"] == len(lengths) == 2 * stats.rows
    assert sorted(TokenFile(str(tmp_path / "tokens.arrow")).lengths) == sorted(length for length in lengths if length <= limit)
    skipped = [json.loads(line) for line in (tmp_path / "skipped.jsonl").read_text().splitlines()]
    assert [entry["tokens"] > limit for entry in skipped] == [True] * stats.skipped["too_long"]


@pytest.mark.parametrize(
    ("rows", "limit", "message"), [([], 64, "no rows were kept"), (make_rows(), 16, "none of 24 rows can be used .48 too_long")]
)
def test_an_unusable_data_set_is_one_clear_line(rows: list[Row], limit: int, message: str, base: Path, tmp_path: Path) -> None:
    with pytest.raises(UserError, match=message):
        write_tokens(lambda: rows, examples, load_tokenizer(base), limit, tmp_path / "tokens.arrow")
    assert not (tmp_path / "tokens.arrow").exists()


def test_what_the_tokenizer_puts_before_text_is_kept(base: Path) -> None:
    from tokenizers import processors

    tokenizer = load_tokenizer(base)
    assert start_ids(tokenizer) == []
    bos = tokenizer.bos_token_id
    tokenizer.backend_tokenizer.post_processor = processors.TemplateProcessing(
        single="<|im_start|> $A", special_tokens=[("<|im_start|>", bos)]
    )
    assert start_ids(tokenizer) == [bos]
