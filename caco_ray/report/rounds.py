"""The rounds of a run side by side: what each one gave, and how varied it is."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass

from caco_ray.report.diversity import MOST, Diversity, Spread, draw, measure, spread
from caco_ray.report.numbers import number, percent
from caco_ray.rounds import label
from caco_ray.run import folder_of
from caco_ray.store import Dataset, Folder
from caco_ray.store.dataset import is_closed


@dataclass(frozen=True)
class RoundReport:
    """One round. Counts are None where the stage is not closed; `new`: kept programs that no earlier one and no seed repeats."""

    number: int
    sampled: int
    kept: int
    new: int | None
    asked: int | None  # questions that were asked for
    questions: int | None
    solved: int | None  # solutions that were drawn
    agreed: int | None
    judged: int | None  # that the judge let pass
    diversity: Diversity | None = None
    question_words: Spread | None = None
    solution_tokens: Spread | None = None

    @property
    def shipped(self) -> int | None:
        return self.agreed if self.judged is None else self.judged


def read_rounds(run: Folder, kept: Mapping[str, tuple[int, int]], rounds: int) -> tuple[RoundReport, ...]:
    """The rounds that have programs. `kept`: drawn and kept rows of each closed data set, by label.

    Raises:
        RunDirError: a file that was drawn is missing or damaged.
    """
    begun = [at for at in range(1, rounds + 1) if label("scale", at) in kept]
    alike = min((kept[label("scale", at)][1] for at in begun if kept[label("scale", at)][1]), default=0)
    return tuple(_round(run, kept, at, min(alike, MOST)) for at in begun)


def _round(run: Folder, kept: Mapping[str, tuple[int, int]], at: int, alike: int) -> RoundReport:
    def count(stage: str) -> int | None:
        return kept[label(stage, at)][1] if label(stage, at) in kept else None

    def rows(stage: str) -> int | None:
        return kept[label(stage, at)][0] if label(stage, at) in kept else None

    sampled, passed = kept[label("scale", at)]
    programs = [str(row["code"]) for row in _rows(run, "scale", at, alike, "code") if row["code"]]
    words = [len(str(row["question"]).split()) for row in _rows(run, "reverse", at, MOST, "question") if row["question"]]
    tokens = [value for row in _rows(run, "solve", at, MOST, "solve_tokens") if isinstance(value := row["solve_tokens"], int)]
    return RoundReport(
        at,
        sampled,
        passed,
        new=count("select"),
        asked=rows("reverse"),
        questions=count("reverse"),
        solved=rows("solve"),
        agreed=count("solve"),
        judged=count("judge"),
        diversity=measure(programs),
        question_words=spread(words) if words else None,
        solution_tokens=spread(tokens) if tokens else None,
    )


def _rows(run: Folder, stage: str, at: int, count: int, *columns: str) -> list[dict[str, object]]:
    folder = folder_of(run, stage, at)
    return draw(Dataset(folder), columns, count) if count and is_closed(folder) else []


def compare(rounds: tuple[RoundReport, ...]) -> list[tuple[str, list[str]]]:
    """Lines of the comparison: name, and a value for each round. A line that no round has a value for is left out."""
    measures: dict[str, Callable[[RoundReport], str]] = {
        "programs sampled": lambda one: f"{one.sampled:,}",
        "passed the filters": lambda one: _share(one.kept, one.sampled),
        "new: no duplicate, not contaminated": lambda one: _share(one.new, one.kept),
        "questions that passed": lambda one: _share(one.questions, one.asked),
        "solutions that agreed": lambda one: _share(one.agreed, one.solved),
        "solutions that the judge let pass": lambda one: _share(one.judged, one.agreed),
        "rows per 1,000 samples": lambda one: number(1000.0 * one.shipped / one.sampled) if one.shipped is not None and one.sampled else "",
        "programs measured": lambda one: f"{one.diversity.programs:,}" if one.diversity else "",
        "distinct syntax trees": lambda one: percent(one.diversity.distinct_programs) if one.diversity else "",
        "distinct 4-grams": lambda one: percent(one.diversity.distinct_ngrams) if one.diversity else "",
        "compression ratio": lambda one: number(one.diversity.compression_ratio) if one.diversity else "",
        "domains": lambda one: _domains(one.diversity),
        "lines of a program": lambda one: _spread(one.diversity.lines) if one.diversity else "",
        "words of a question": lambda one: _spread(one.question_words),
        "tokens of a solution": lambda one: _spread(one.solution_tokens),
    }
    lines = [(name, [show(one) for one in rounds]) for name, show in measures.items()]
    return [(name, values) for name, values in lines if any(values)]


def _share(part: int | None, whole: int | None) -> str:
    if part is None:
        return ""
    return f"{part:,} ({percent(part / whole)})" if whole else f"{part:,}"


def _spread(of: Spread | None) -> str:
    return f"{of.median:,.0f}, 90 % up to {of.p90:,.0f}" if of else ""


def _domains(diversity: Diversity | None) -> str:
    if diversity is None or not diversity.domains:
        return ""
    first = ", ".join(f"{name} {count}" for name, count in diversity.domains[:3])
    return f"{len(diversity.domains)}: {first}"
