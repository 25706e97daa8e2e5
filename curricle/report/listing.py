"""What the store and a study's progress look like in a terminal: the views of `status`, `list`, `diff`, `clean`,
`explain`, `calibrate` and `value`."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from rich.console import Group, RenderableType
from rich.text import Text

from curricle.analysis import Finding
from curricle.difference import Difference
from curricle.planning import Plan
from curricle.report import words
from curricle.report.terminal import add_row, plain_table

SHOWN = 40  # runs that are listed one by one
FIRST_WORDS = 48  # characters of a document that is named


def status_view(
    plan: Plan, reached: Mapping[str, int], done: frozenset[str], settled: Mapping[str, str]
) -> RenderableType:
    """One line for each run: done, under way with its share, waiting, or `settled` as not to be done, and why."""
    table = plain_table("run", "stage", "seed", "tokens", "state")
    for run, node in plan.nodes.items():
        tokens = reached[run]
        if run in done:
            state = "✓ done"
        elif run in settled:
            state = f"✗ {settled[run].partition(':')[0]}"
        elif tokens >= node.tokens:
            state = "trained, to be evaluated"
        elif tokens:
            state = f"{words.percent(tokens / node.tokens)} of {words.count(node.tokens)}"
        else:
            # Of a parent that has ended early a run begins only where it had branched off before, and then at once.
            state = "waiting" if node.parent in {None, *done, *settled} else "waits for its parent"
        add_row(table, run, node.stage, str(node.seed), words.count(node.tokens), state)
    return Group(table, Text(f"\n{len(done)} of {words.plural(len(plan.nodes), 'run')} done"))


def list_view(shipped: Mapping[str, str], runs: Sequence[Mapping[str, Any]], store: Path) -> RenderableType:
    studies = plain_table("study", "question")
    for name, question in shipped.items():
        add_row(studies, name, question)
    if not runs:
        return Group(studies, Text(f"\nno runs in {store}"))
    table = plain_table("run", "seed", "tokens", "state", "studies")
    for run in runs[:SHOWN]:
        state = "complete" if run["complete"] else "diverged" if run["diverged"] else "begun"
        studies_of = ", ".join(run["studies"]) or "none"
        add_row(table, run["run"], str(run["seed"]), words.count(run["tokens"]), state, studies_of)
    more = f"\n… and {len(runs) - SHOWN} more" if len(runs) > SHOWN else ""
    return Group(studies, Text(f"\n{words.plural(len(runs), 'run')} in {store}"), table, Text(more))


def diff_view(one: str, other: str, found: Sequence[Difference]) -> RenderableType:
    if not found:
        return Text(f"{one} and {other} are the same")
    table = plain_table("field", one, other)
    for difference in found:
        add_row(table, difference.field, _value(difference.theirs), _value(difference.ours))
    return table


def clean_view(unused: Mapping[str, int], removed: bool) -> RenderableType:
    if not unused:
        return Text("nothing to clean: every study that refers to this store needs all of it")
    table = plain_table("not referred to by any study", "size")
    for name, size in unused.items():
        add_row(table, name, words.size(size))
    total = words.size(sum(unused.values()))
    said = f"\nremoved: {total}" if removed else f"\n{total} in all; curricle clean --remove removes it"
    return Group(table, Text(said))


def explained_view(found: Mapping[str, Any], full: bool) -> RenderableType:
    """The documents behind a step (`explain.Explained` as plain values): a line for each with its first words, or, if
    `full`, each with all of it that was read."""
    batch = found["rows"] * found["context"]
    said: list[RenderableType] = [
        Text(f"{found['run']}, step {found['step']:,} of {found['steps']:,}", style="bold"),
        Text(
            f"{found['stage']}, seed {found['seed']}; tokens {(found['step'] - 1) * batch:,} to "
            f"{found['step'] * batch:,}: {words.plural(found['rows'], 'row')} of {found['context']:,}"
        ),
    ]
    forms = {"loss_nats": "loss {:.4g} nats", "grad_norm": "gradient norm {:.3g}", "lr": "learning rate {:.3g}"}
    values = [(form, (found["metrics"] or {}).get(name)) for name, form in forms.items()]
    told = [form.format(value) for form, value in values if isinstance(value, int | float)]
    said.append(Text(", ".join(told) or "nothing is noted of this step: it has not been trained"))
    if found["guard"] is not None:
        said.append(Text(f"a loss guard named this step: {found['guard']}", style="bold"))
    if full:
        for p in found["passages"]:
            where = f"  {p['where']}" if p["where"] else ""
            loss = "" if p["targets"] == p["tokens"] else f", {p['targets']:,} with loss"
            about = f"\nrow {p['row']}  {p['source']}  {p['id']}{where}  ({p['tokens']:,} tokens{loss})"
            said += [Text(about, style="dim"), Text(p["text"])]
        return Group(*said)
    table = plain_table(">row", "source", "document", ">tokens", "begins")
    sources: dict[str, set[int]] = {}
    for p in found["passages"]:
        name = f"{p['id']} {p['where']}".strip()
        add_row(table, str(p["row"]), p["source"], name, f"{p['tokens']:,}", _first_words(p["text"]))
        sources.setdefault(p["source"], set()).add(p["document"])
    counts = ", ".join(f"{words.plural(len(places), 'document')} of {name}" for name, places in sources.items())
    return Group(*said, Text(""), table, Text(f"\n{counts}; --full prints all of their text that was read"))


def calibration_view(peaks: Sequence[Mapping[str, Any]]) -> RenderableType:
    """What this machine was measured to reach (`calibration.Peak` as plain values)."""
    precisions = list(dict.fromkeys(name for peak in peaks for name in peak["flops_per_second"]))
    table = plain_table("device", "threads", *(f">{name}, GFLOP/s" for name in precisions), ">copy, GB/s")
    for peak in peaks:
        rates = (peak["flops_per_second"].get(name) for name in precisions)
        cells = ["–" if rate is None else f"{rate / 1e9:,.0f}" for rate in rates]
        threads = str(peak["threads"]) if peak["threads"] else "–"
        add_row(
            table, f"{peak['device']}  {peak['name']}", threads, *cells, f"{peak['copy_bytes_per_second'] / 1e9:,.1f}"
        )
    note = "Matrix products of the best size tried; a copy counts the bytes it reads and those it writes."
    said: list[RenderableType] = [table, Text(note, style="dim")]
    on_cpu = [peak["flops_per_second"]["fp32"] for peak in peaks if peak["threads"]]
    if on_cpu and on_cpu[-1] < on_cpu[0]:
        said.append(Text("All threads together did less than one: something else is using this machine. Measure again"))
        said.append(Text("when it is idle: curricle calibrate --again"))
    return Group(*said)


def _first_words(text: str) -> str:
    line = " ".join(text[: 4 * FIRST_WORDS].split())
    return line if len(line) <= FIRST_WORDS else f"{line[:FIRST_WORDS]}…"


def _value(value: object) -> str:
    return "–" if value is None else str(value)


def value_view(findings: Sequence[Finding]) -> RenderableType:
    """One line for each source, the most valuable first: the value of a token with its interval, and its factors."""
    table = plain_table(
        "source", ">documents", ">value of a token", "95 %, documents vary", ">r", ">c", ">E[rc]/E[r]E[c]"
    )
    for finding in findings:
        factors = [finding.parts.get(name) for name in ("mean_r", "mean_c", "alignment")]
        shown = ["–" if x is None else f"{x:.3g}" for x in factors]
        add_row(table, finding.subject, f"{finding.n:,}", words.estimate(finding), words.interval(finding), *shown)
    means = (
        "Means over documents. r: its relevance (the cosine with the target's gradient, or a density ratio); c: how "
        "much in it the model has yet to learn; E[rc]/E[r]E[c]: above 1 where those with much in them are the relevant."
    )
    return Group(table, Text(f"\n100 % is {findings[0].parts['of']}"), Text(means, style="dim"))
