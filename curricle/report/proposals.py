"""What to run next, in a terminal: a proposed design as a table, and in a sentence what it can tell."""

from __future__ import annotations

import shlex
from collections.abc import Mapping, Sequence
from pathlib import Path

from rich.console import Group, RenderableType
from rich.text import Text

from curricle.analysis.factorial import Design
from curricle.analysis.finding import ACCURACY, BITS, POINTS, number
from curricle.analysis.proposals import next_runs
from curricle.report import words
from curricle.report.terminal import SPACE, add_row, plain_table


def factorial_view(design: Design) -> RenderableType:
    """The arms, one a row; then what they tell, at what cost."""
    first, second = design.sources
    heads = [f">{first}", f">{second}", *([f">{design.filler}"] if design.filler else []), "read in turn"]
    table = plain_table("strategy", *heads)
    for arm in design.arms:
        doses = [words.count(dose) for dose in (*arm.doses, *([arm.filler] if design.filler else []))]
        add_row(table, arm.strategy, *doses, " → ".join(source for source, _ in arm.stages))
    head = (
        f"{words.plural(len(design.arms), 'strategy')} × {words.plural(design.seeds, 'seed')}   "
        f"at most {words.count(design.tokens)} tokens"
    )
    verdict = f"It {design.why}." if design.answers else f"It cannot answer: {design.why}."
    meant = (
        f"γ: what both give together beyond each alone, on doses from 0 to 1; the seeds' variance is pooled over the "
        f"cells ({design.df} degrees of freedom)."
    )
    said = [Text(verdict, style="bold"), Text(meant, style="dim")]
    if design.inflation > 1.05:
        said.append(
            Text(f"Modelling the filler makes its interval {design.inflation:.1f} times as wide; arms with less filler "
                 f"(--filler-arm) narrow it.", style="dim")
        )  # fmt: skip
    if design.prefix_factor > 1.05:
        narrow = 100 * (design.prefix_factor**0.5 - 1)
        joined = (
            f"Strategies that share a first stage are alike, which could make its interval up to {narrow:.0f} % too "
            f"narrow; largest doses that differ between the sources avoid it."
        )
        said.append(Text(joined, style="dim"))
    if design.sigma is None:
        said.append(
            Text("With --sigma, the spread over seeds of an earlier study, γ is said in its own unit.", style="dim")
        )
    if not design.tells_kappa:
        said.append(Text("Too few cells for κ, the synergy on the scale of effective tokens.", style="dim"))
    return Group(Text(head, style="bold"), SPACE, table, SPACE, *said)


def swarm_view(mixtures: Mapping[str, Mapping[str, float]], tokens: int) -> RenderableType:
    """The mixtures, one a row, as shares of each source in percent; then what they take."""
    sources = list(dict.fromkeys(source for mixture in mixtures.values() for source in mixture))
    table = plain_table("mixture", *(f">{source}" for source in sources))
    for name, mixture in mixtures.items():
        add_row(table, name, *(f"{100 * mixture[s]:.1f}" if s in mixture else "0" for s in sources))
    head = f"{len(mixtures)} mixtures   {words.count(tokens)} tokens in all   shares in %"
    return Group(Text(head, style="bold"), SPACE, table)


def next_runs_view(design: next_runs.Design) -> RenderableType:
    """Every question with its state; the runs that open ones would take, one a row, what the budget buys marked; then
    why each is proposed and what is typed, and the front."""
    unit = POINTS if design.measure == ACCURACY else BITS
    timed = any(p.hours is not None for p in design.proposals)
    table = plain_table(
        "question", "runs", ">tokens", ">FLOPs", *([">time"] if timed else []), ">regret saved", "budget"
    )
    for p in design.proposals:
        saved = "not priced" if p.regret_saved is None else number(p.regret_saved, unit, signed=False)
        time = [words.duration(3600 * p.hours) if p.hours is not None else "?"] if timed else []
        bought = "✓" if p.fits else "alone" if p.alone else "over"
        add_row(table, p.question, p.runs, words.count(p.tokens), words.flops(p.flops), *time, saved, bought)
    in_flops = "" if design.unit == "flops" else f" (about {words.flops(design.flops)} FLOPs)"
    head = (
        f"{words.budget(design.unit, design.budget)} to spend{in_flops}, {words.flops(design.spent)} FLOPs spent so "
        f"far; target {design.target} ({design.measure})"
    )
    told: list[RenderableType] = []
    for p in design.proposals:
        why = p.runs if p.regret_saved is None else p.why  # why the others are open stands above
        told += [Text.assemble((p.question, "bold"), f": {why}"), typed(p.how), SPACE]
    if not design.proposals:
        told = [Text("Nothing is open that more of these runs would tell."), SPACE]
    front = [Text(design.front.sentence())] if design.front else [Text("No front: no other text was held out.")]
    rows: list[RenderableType] = [table, *meant(design), SPACE] if design.proposals else []
    return Group(Text(head, style="bold"), SPACE, *states(design.questions), SPACE, *rows, *told, *front)


def written_view(design: next_runs.Design, of: str, out: Path, place: Sequence[str] = ()) -> RenderableType:
    """What `--out` wrote, and what of the bought is not in it."""
    count = len(design.together.taken)
    said: list[RenderableType] = [SPACE]
    if count:
        tokens, apart = design.together.tokens, sum(design.proposals[k].tokens for k in design.together.taken)
        joint = ", since new strategies are trained with the new seeds, too" if tokens > 1.001 * apart else ""
        more = f"{words.plural(count, 'proposal')}, {words.count(tokens)} tokens more{joint}"
        said.append(Text(f"Wrote {out}: {of} with {more}. Look at it, then:"))
        said.append(typed(shlex.join(["curricle", "plan", str(out), *place])))
    else:
        said.append(Text(f"Nothing that the budget buys is a change of {of}; {out} was not written."))
    if design.apart:
        said.append(Text("Not in it, as a study of its own or too much beside the others:"))
        said += [typed(p.how) for p in design.apart]
    return Group(*said)


def meant(design: next_runs.Design) -> list[RenderableType]:
    """What the last column says, where not all of it is bought."""
    if all(p.fits for p in design.proposals):
        return []
    said = "✓: bought, one after another from the top; over: costs more than the budget"
    if any(p.alone and not p.fits for p in design.proposals):
        said += "; alone: within the budget by itself, not beside those that are bought"
    return [SPACE, Text(f"{said}.", style="dim")]


def typed(how: str) -> Text:
    """A command on one line, however long, so that it can be copied; printed with `crop=False`."""
    return Text(f"  {how}", style="dim", no_wrap=True, overflow="ignore")


def states(questions: Sequence[next_runs.Status]) -> list[RenderableType]:
    """The questions that are answered in a line; each other one with what it takes, or why nothing would do."""
    made: list[RenderableType] = []
    done = [q.question for q in questions if q.state == next_runs.ANSWERED]
    if done:
        made.append(Text.assemble(("Answered", "bold"), f": {', '.join(done)}."))
    for state, title in ((next_runs.OPEN, "Open"), (next_runs.NOT_HERE, "Cannot be answered from this study")):
        here = [q for q in questions if q.state == state]
        if here:
            made += [SPACE, Text(title, style="bold")]
        for q in here:
            cost = "" if q.tokens is None else f" (from {words.count(q.tokens)} tokens)"
            made.append(Text(f"{q.question}{cost}: {q.why}"))
    return made
