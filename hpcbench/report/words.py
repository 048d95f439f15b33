"""What a report says, in the languages that it speaks. Names of columns stay as they are in `ranking.csv`."""

from __future__ import annotations

from dataclasses import dataclass

from hpcbench.errors import input_error


@dataclass(frozen=True, kw_only=True)
class Words:
    """The sentences of a report; what stands in braces is filled in."""

    title: str
    nothing: str
    nothing_ranked: str
    only: str
    first: str
    by_factor: str
    supported: str
    tied: str
    too_few: str
    needed: str
    hopeless: str
    interval: str
    single: str
    joiner: str
    last_joiner: str
    stop: str
    sentence_space: str
    notes: str
    incomplete: str
    incomplete_line: str
    problems: str
    pictures: str
    left_out: str
    left_out_line: str
    captions: dict[str, str]


ENGLISH = Words(
    title="Report: {sweeps}",
    nothing="No run has left records yet.",
    nothing_ranked="No run of this class has finished with a figure to rank by.",
    only="{best} is the only ranked run: {value}.",
    first="{best} comes first by {column}: {value}, before {second}: {second_value}",
    by_factor=" (a factor of {factor})",
    supported="The difference is supported: paired t test over {blocks} repeats, p {p} after correction "
    "for {tests} tests.",
    tied="No single first place by {column} is supported: {names} are not told apart. The best mean is "
    "that of {best}: {value}.",
    too_few="Fewer than {fewest} repeats were run side by side, so no difference is tested.",
    needed="Telling {best} from {second} would need about {repeats} repeats.",
    hopeless="Telling {best} from {second} would need more than {most} repeats.",
    interval="95 % confidence interval {low} to {high}, n = {n}",
    single="n = {n}",
    joiner=", ",
    last_joiner=" and ",
    stop=".",
    sentence_space=" ",
    notes="`n` is the number of finished repeats, ± half of the 95 % confidence interval; a range of ranks "
    "is a tie. Ranks hold inside a class only. Nothing here has been audited. What every column and picture "
    "means stands in docs/report.md.",
    incomplete="Not finished",
    incomplete_line="{run}: {state}{reason}",
    problems="Problems with the records",
    pictures="Pictures",
    left_out="Pictures left out, because the records hold nothing to draw",
    left_out_line="{scene}: {pictures}",
    captions={
        "throughput": "Throughput",
        "accuracy": "Validation accuracy",
        "loss": "Training loss",
        "phases": "Time per phase",
    },
)

CHINESE = Words(
    title="报告:{sweeps}",
    nothing="还没有任何运行留下记录。",
    nothing_ranked="该类别中没有可排名的已完成运行。",
    only="{best} 是唯一参与排名的运行:{value}。",
    first="按 {column},{best} 排名第一:{value};其次是 {second}:{second_value}",
    by_factor="(相差 {factor} 倍)",
    supported="该差异有统计支持:对 {blocks} 次重复做配对 t 检验,经 {tests} 次检验校正后 p {p}。",
    tied="按 {column} 没有可确认的唯一第一名:{names} 之间无法区分。均值最好的是 {best}:{value}。",
    too_few="同期交错的重复少于 {fewest} 次,因此未检验差异。",
    needed="要区分 {best} 与 {second},大约需要 {repeats} 次重复。",
    hopeless="要区分 {best} 与 {second},需要超过 {most} 次重复。",
    interval="95 % 置信区间 {low} 至 {high},n = {n}",
    single="n = {n}",
    joiner="、",
    last_joiner=" 和 ",
    stop="。",
    sentence_space="",
    notes="`n` 是已完成的重复次数,± 是 95 % 置信区间的半宽;名次范围表示并列。名次只在类别内有效。"
    "结果尚未审计。各列和各图的含义见 docs/report.md。",
    incomplete="未完成",
    incomplete_line="{run}:{state}{reason}",
    problems="记录中的问题",
    pictures="图",
    left_out="因记录中没有数据而省略的图",
    left_out_line="{scene}:{pictures}",
    captions={
        "throughput": "吞吐量",
        "accuracy": "验证准确率",
        "loss": "训练损失",
        "phases": "各阶段时间",
    },
)

LANGUAGES = {"en": ENGLISH, "zh": CHINESE}


def words(lang: str) -> Words:
    """Return a language's words. Raises InputError for one that is not spoken."""
    if lang not in LANGUAGES:
        raise input_error("no such language", key="--lang", found=lang, allowed=", ".join(LANGUAGES))
    return LANGUAGES[lang]
