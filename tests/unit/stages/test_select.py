"""Keys of duplicates and contamination, on real programs and questions."""

import json

import pytest

from caco_ray.seeds.builtin import builtin_seeds
from caco_ray.stages.select import ast_key, contamination, evaluation_index, exact_key, ngrams, program_contamination, program_keys, words

SEEDS = [row for split in ("train", "heldout") for row in builtin_seeds(split)]

PROGRAM = """input = {"boxes": 4, "pens": 12, "lost": 5}

def solve(boxes, pens, lost):
    # Step 1: count all pens.
    total = boxes * pens
    # Step 2: take away the lost ones.
    left = total - lost
    return left

output = solve(**input)
print(output)"""

RENAMED = '''input = {"trays": 4, "eggs": 12, "broken": 5}


def count_eggs(trays: int, eggs: int, broken: int) -> int:
    """Whole eggs."""
    all_eggs = (trays * eggs)  # all of them
    whole: int = all_eggs - broken

    return whole

output = count_eggs(**input)
print(output)
'''

BY_KEY = """input = {"boxes": 4, "pens": 12}
total = input["boxes"] * input.get("pens")
output = total + 1"""


def test_names_comments_annotations_and_layout_do_not_matter():
    assert exact_key(PROGRAM) != exact_key(RENAMED)
    assert ast_key(PROGRAM) == ast_key(RENAMED)
    assert ast_key(BY_KEY) == ast_key(BY_KEY.replace("boxes", "trays").replace("pens", "eggs").replace("total", "t"))


def test_values_operations_and_library_names_matter():
    changes = [("12", "13"), ("boxes * pens", "boxes + pens"), ("- lost", "- boxes"), ("print(output)", "print(output, output)")]
    keys = {ast_key(PROGRAM)} | {ast_key(PROGRAM.replace(*change)) for change in changes}
    assert len(keys) == len(changes) + 1
    assert ast_key("output = max(input)") != ast_key("output = min(input)")
    assert ast_key("import math\noutput = math.gcd(4, 6)") != ast_key("import math\noutput = math.lcm(4, 6)")
    assert ast_key("a = 1\nb = 2\noutput = a - b") != ast_key("a = 1\nb = 2\noutput = b - a")


def test_the_local_name_of_an_import_does_not_matter():
    assert ast_key("import heapq\noutput = heapq.nlargest(2, [1])") == ast_key("import heapq as hq\noutput = hq.nlargest(2, [1])")


def test_the_exact_key_ignores_blanks_at_line_ends_only():
    assert exact_key(PROGRAM) == exact_key(PROGRAM.replace("\n", "  \n") + "\n\n")
    assert exact_key(PROGRAM) != exact_key(PROGRAM.replace("    ", "  "))


def test_text_that_does_not_parse_has_its_exact_key():
    assert program_keys("def f(:") == (exact_key("def f(:"),) * 2
    assert len({ast_key("def f(:"), ast_key("def g(:")}) == 2


def test_builtin_programs_are_all_different():
    assert len({ast_key(seed["code"]) for seed in SEEDS}) == len({exact_key(seed["code"]) for seed in SEEDS}) == len(SEEDS)


def test_keys_are_64_bit():
    assert all(0 <= key < 2**64 for seed in SEEDS for key in program_keys(seed["code"]))


def test_words_ignore_case_and_punctuation():
    assert words("Ann's cost: $1,000 (each)!\nTwo_words") == ["anns", "cost", "1000", "each", "twowords"]
    assert ngrams("a b c d", 3) == {"a b c", "b c d"}
    assert ngrams("a b", 3) == set()


def test_gsm8k_test_questions_are_found_and_train_questions_hardly(shared_data):
    read = lambda name: [json.loads(line)["question"] for line in (shared_data / "gsm8k" / name).read_text().splitlines()]  # noqa: E731
    protected, others = read("test.jsonl"), read("train.jsonl")
    index = evaluation_index(protected, 13)
    assert all(contamination(question, index) for question in protected)
    assert all(contamination(f"Here is a story. {q.upper()} Think!", index) for q in protected[:100])
    assert sum(contamination(question, index) for question in others) < len(others) / 500


def test_a_short_question_is_protected_as_a_whole():
    index = evaluation_index(["What is 17 times 24 minus 9?", "Factor x."], 13)
    assert contamination("Think. What is 17 times 24, minus 9?", index)
    assert not contamination("What is 17 times 24 minus 8?", index)
    assert not contamination("Factor x. Then factor y.", index)


def test_a_question_of_any_length_is_found_where_it_is_the_whole_text():
    index = evaluation_index(["What is 15% of 80?", "Compute $12 - 5$.", "\\[ \\]", "Eggs?"], 13)
    for same in ("What is 15% of 80?", "  what is 15 % of 80 ", "What is $15\\%$ of $80$?", "Compute 12 − 5", "compute: 12-5"):
        assert contamination(same, index), same
    for other in (
        "What is 15% of 90?",
        "What is 15 of 80?",
        "Compute 12 + 5.",
        "Compute 12.5",
        "Tell me: what is 15% of 80?",
        "",
        "?!",
        "eggs",
    ):
        assert not contamination(other, index), other
    assert program_contamination(f"# What is 15% of 80?\n{PROGRAM}", index)
    assert program_contamination(PROGRAM + '\ntext = """What is\n15% of 80?"""', index)
    assert program_contamination(PROGRAM + '\ntext = "What is\\n15\\x25 of 80?"', index)
    assert not program_contamination(f"# Find 15% of 80\n{PROGRAM}", index)


@pytest.mark.parametrize(
    "protected,written",
    [
        ("A 5-foot pole casts a shadow of 9 feet", "A 5 foot pole casts a shadow of 9 feet"),
        ("Tom has one choice—red or blue—for his hat", "Tom has one choice - red or blue - for his hat"),
        ("What part of the cake is \\frac{1}{2} of \\dfrac34?", "What part of the cake is 1/2 of 3/4?"),
        ("Find the value of $3 \\times 4 \\cdot 5$ for me", "Find the value of 3×4·5 for me"),
        ("Solve for all real x: x² + 10² = 125x", "Solve for all real $x$: $x^2 + 10^{2} = 125 x$"),
        ("What is the sum of 12 and 345 in base 6?", "What is the sum of １２ and ３４５ in base ６?"),
        ("How long are \\text{ten steps} of \\left( 2.5 \\right) feet each?", "How long are ten steps of (2.5) feet each?"),
        ("Find the area of a disc of radius 2\\pi in cm", "Find the area of a disc of radius 2π in cm"),
        ("Ann's 1,000 pens and Bo's 5{,}000 pens cost what?", "Ann’s 1000 pens and Bo’s 5000 pens cost what?"),
        ("Ben ate 2½ of the 6 pies he made", "Ben ate 2 1/2 of the 6 pies he made"),
    ],
)
def test_how_a_question_is_dressed_does_not_matter(protected: str, written: str):
    for one, other in ((protected, written), (written, protected)):
        index = evaluation_index([one], 13)
        assert contamination(other, index) and contamination(f"Think hard. {other} Then stop.", index)
        assert not contamination(other.replace("of", "after").replace("for", "to").replace("cost", "weigh"), index)


def test_a_hyphen_in_the_middle_of_a_long_question_hides_it_no_more_than_it_condemns_a_phrase():
    pole = "A man who walks past a 5-foot pole sees that its shadow is 9 feet long and asks how high the sun stands"
    ends = (
        "Find the probability that two cards match, written as $m/n$, where $m$ and $n$ are relatively prime positive integers. Find $m+n$."
    )
    index = evaluation_index([pole, ends], 13)
    assert contamination(pole.replace("-", " "), index) and contamination(ends.replace("$", ""), index)
    assert not contamination("A die is rolled. Its odds are m/n, where m and n are relatively prime positive integers. Find m+n.", index)


def test_nested_fractions_without_end_are_read():
    assert not contamination("\\frac{1}{" * 500 + "2" + "}" * 500 + "\\frac{" * 500, evaluation_index(["Factor x."], 13))


def test_a_question_in_the_comments_of_a_program_is_found():
    question = "Natalia sold clips to 48 of her friends in April and then she sold half as many clips in May"
    index = evaluation_index([question], 13)
    broken = PROGRAM.replace("count all pens.", question)
    assert program_contamination(broken, index)
    split = "# Natalia sold clips to 48 of her friends\napril = 48\n# in April and then she sold half as many clips in May\nmay = april / 2"
    assert not contamination(split, index) and program_contamination(split, index)
    assert program_contamination(f'text = "{question}"\n(((', index)
    assert not program_contamination(PROGRAM, index)
