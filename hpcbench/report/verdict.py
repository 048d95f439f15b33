"""The answer in a sentence or two: what comes first in a class, and whether that may be said."""

from __future__ import annotations

from hpcbench.analysis.pairwise_tests import RunPair
from hpcbench.analysis.result_columns import RANKING_MEASURES
from hpcbench.analysis.statistical_tests import MAX_REPEATS, MIN_PAIRED_BLOCKS
from hpcbench.report.cells import Row, number, unit_of
from hpcbench.report.words import Words

UNITS = {
    "throughput_samples_s": " {unit}/s",
    "throughput_per_device": " {unit}/s per device",
    "epoch_time_s": " s",
    "total_time_s": " s",
    "peak_mem_mb": " MB",
}


def verdict(rows: list[Row], pairs: list[RunPair], rank_by: str, words: Words) -> str:
    """Say in plain text what the rows of one class, best first, allow to say."""
    ranked = [row for row in rows if row["rank"] is not None]
    if not ranked:
        return words.nothing_ranked
    best = ranked[0]
    if len(ranked) == 1:
        return words.only.format(best=best["experiment"], value=_value(best, rank_by, words))
    second = ranked[1]
    pair = next(p for p in pairs if (p.first, p.second) == (best["experiment"], second["experiment"]))
    tied = [row["experiment"] for row in ranked if row["rank"] == best["rank"]]
    if len(tied) == 1:
        return _clear(best, second, pair, rank_by, words)
    sentence = words.tied.format(
        column=words.measures[rank_by],
        names=_joined(tied, words),
        best=best["experiment"],
        value=_value(best, rank_by, words),
    )
    return words.sentence_space.join([sentence, _what_it_takes(pair, words)])


def _clear(best: Row, second: Row, pair: RunPair, rank_by: str, words: Words) -> str:
    sentence = words.first.format(
        best=best["experiment"],
        column=words.measures[rank_by],
        value=_value(best, rank_by, words),
        second=second["experiment"],
        second_value=_value(second, rank_by, words),
    )
    if RANKING_MEASURES[rank_by].logarithmic and best[rank_by] > 0 and second[rank_by] > 0:
        ratio = best[rank_by] / second[rank_by]
        sentence += words.by_factor.format(factor=f"{max(ratio, 1 / ratio):.3g}")
    p = "< 0.001" if pair.p_holm is not None and pair.p_holm < 0.001 else f"= {pair.p_holm:.2g}"
    support = words.supported.format(blocks=pair.difference.blocks, p=p, tests=pair.tests)
    return words.sentence_space.join([sentence + words.stop, support])


def _what_it_takes(pair: RunPair, words: Words) -> str:
    if pair.p_holm is None:
        return words.too_few.format(fewest=MIN_PAIRED_BLOCKS)
    repeats = pair.repeats_needed()
    if repeats is None:
        return words.hopeless.format(best=pair.first, second=pair.second, most=MAX_REPEATS)
    return words.needed.format(best=pair.first, second=pair.second, repeats=repeats)


def _value(row: Row, column: str, words: Words) -> str:
    unit = UNITS.get(column, " %").format(unit=unit_of([row]))
    value = f"{number(row[column])}{unit}"
    if column != "throughput_samples_s" or row["throughput_ci_low"] is None:
        return f"{value} ({words.single.format(n=row['repeats'])})"
    low, high = number(row["throughput_ci_low"]), number(row["throughput_ci_high"])
    return f"{value} ({words.interval.format(low=low, high=high, n=row['repeats'])})"


def _joined(names: list[str], words: Words) -> str:
    return words.last_joiner.join([words.joiner.join(names[:-1]), names[-1]])
