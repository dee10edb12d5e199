"""Numbers as a person reads them."""

from collections.abc import Mapping

# Results of a training in words; others are shown under their own names.
METRICS: Mapping[str, str] = {
    "tokens_per_s": "tokens/s",
    "learned_tokens": "tokens with loss",
    "skipped_too_long": "left out as too long",
    "skipped_nothing_to_learn": "left out with nothing to learn",
    "skipped_no_columns": "left out for want of columns",
    "skipped_for_evaluation": "left out for evaluation",
}


def short(value: float) -> str:
    """Three digits from ten thousand on: `9,500`, `12.3 k`, `4.56 M`."""
    if abs(value) < 1e4:
        return f"{value:,.0f}"
    rounded = float(f"{value:.3g}")  # first: 999,999 is 1 M, not 1000 k
    limit, unit = next(((limit, unit) for limit, unit in ((1e9, "G"), (1e6, "M")) if rounded >= limit), (1e3, "k"))
    return f"{rounded / limit:.3g} {unit}"


def number(value: float) -> str:
    """All digits of a count; four digits of a small measurement."""
    return f"{value:,.4g}" if isinstance(value, float) and abs(value) < 1000 else f"{value:,.0f}"


def percent(share: float | None) -> str:
    return "–" if share is None else f"{share:.1%}"


def metric(key: str) -> str:
    """Name of a training's result in words."""
    return METRICS.get(key, key.replace("_", " "))
