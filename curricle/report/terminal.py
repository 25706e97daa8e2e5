"""What Curricle says in a terminal: a plan before it runs, why a run is new, what was found.

Every function takes values and returns something that rich can print; none prints. It promises to fit 80 columns, and
to say the same without colour (marks are signs, never a colour alone). It imports nothing that draws charts.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping, Sequence
from typing import Any

from rich.console import Console, ConsoleOptions, Group, RenderableType, RenderResult
from rich.table import Table
from rich.text import Text
from rich.tree import Tree

from curricle.analysis import Comparison, Finding, answer
from curricle.analysis.finding import ACCURACY, BITS, BITS_PER_BYTE, PERCENT, Interval, between, digits
from curricle.difference import Difference
from curricle.planning import ACCELERATORS, STATED_MFU, Plan
from curricle.report import words
from curricle.report.flow import Box, Flow, flow
from curricle.study import Study

GAP = 4  # columns between two stages: " ── "
SPACE = Text("")


# ---- a plan -------------------------------------------------------------------------------------------------------

HOLM = "p corrected for how many are compared, intervals not"


def plan_view(plan: Plan, done: Collection[str], estimate_seconds: float | None, based_on: str = "") -> RenderableType:
    """The plan before it runs: header, tree, ledger, cost. `based_on` says where the estimate comes from."""
    study = plan.study
    finished = set(done) & set(plan.nodes)
    head = [
        Text(study.name, style="bold"),
        Text(f"{words.plural(len(study.strategies), 'strategy')} × {words.plural(len(study.seeds), 'seed')}"),
        *([Text(f"{len(plan.arms)} arms with their learning rates")] if len(plan.arms) > len(study.strategies) else []),
        Text(f"{words.plural(len(plan.nodes) - len(finished), 'stage')} to train, {len(finished)} done"),
        Text(f"{words.count(plan.tokens)} tokens"),
        Text(f"{words.flops(plan.flops)} FLOPs"),
    ]
    if estimate_seconds is not None:
        head.append(Text(_about(estimate_seconds)))
    tree = TreeView(flow(plan), finished)
    costs = cost(plan, estimate_seconds, based_on)
    told = [ledger(plan), *padding(plan), SPACE, *proxy(plan), *recipes(plan), *twins(plan), *moving_prefixes(plan)]
    return Group(Flowing(head), SPACE, tree, SPACE, *told, SPACE, *costs)


class Flowing:
    """Pieces set in a line, three spaces apart; a piece is never broken, a full line is."""

    def __init__(self, pieces: Iterable[Text]):
        self.pieces = list(pieces)

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> RenderResult:
        line = Text(no_wrap=True)
        for piece in self.pieces:
            if line and line.cell_len + 3 + piece.cell_len > options.max_width:
                yield line
                line = Text(no_wrap=True)
            line.append_text(Text("   ") if line else Text()).append_text(piece)
        yield line


class TreeView:
    """The stages of all strategies, one row a strategy, what they share drawn once; a plain tree where that is too
    wide."""

    def __init__(self, layout: Flow, finished: Collection[str]):
        self.layout, self.finished = layout, finished

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> RenderResult:
        rows = self.rows()
        if max((row.cell_len for row in rows), default=0) <= options.max_width:
            yield from rows
        else:
            yield from self.upright()

    def label(self, box: Box) -> str:
        done = box.done(self.finished)
        mark = "" if not done else " ✓" if done == len(box.runs) else f" {done}/{len(box.runs)} ✓"
        left = "" if box.branch_tokens is None else f" from {words.count(box.branch_tokens)}"
        phases = f" in {box.phases} phases" if box.phases > 1 else ""
        return f"{box.stage} {words.count(box.tokens)}{phases}{left}{mark}"

    def rows(self) -> list[Text]:
        layout = self.layout
        columns = range(layout.columns)
        widths = [max(len(self.label(box)) for box in layout.boxes if box.column == column) for column in columns]
        starts = [sum(widths[:column]) + GAP * column for column in columns]
        edge = sum(widths) + GAP * (layout.columns - 1)
        grid = [[" "] * edge for _ in layout.ends]
        for i, box in enumerate(layout.boxes):
            begin, end = starts[box.column], starts[box.column] + len(self.label(box))
            grid[box.row][begin:end] = self.label(box)
            branches = sorted({child.row for child in layout.children(i)} | {e.row for e in layout.ends if e.box == i})
            junction = starts[box.column] + widths[box.column] + 1
            for row in branches:
                until = min((starts[c.column] for c in layout.children(i) if c.row == row), default=edge + 1) - 1
                for x in range(end + 1 if row == box.row else junction, min(until, edge)):
                    grid[row][x] = "─"
            for row in range(box.row, branches[-1] + 1 if len(branches) > 1 else 0):
                shape = "┬" if row == box.row else "└" if row == branches[-1] else "├" if row in branches else "│"
                if junction < edge:
                    grid[row][junction] = shape
        made = []
        for last, cells in zip(layout.ends, grid, strict=True):
            text = Text("".join(cells) + "    ", no_wrap=True)
            text.highlight_regex(r"[─┬├└│]+", "dim")
            text.highlight_regex(r"(?:\d+/\d+ )?✓", "green")
            made.append(text.append_text(self.name(last.strategy, last.baseline)))
        return made

    def upright(self) -> RenderResult:
        trees: dict[int, Tree] = {}
        for i, box in enumerate(self.layout.boxes):
            ends = [self.name(e.strategy, e.baseline) for e in self.layout.ends if e.box == i]
            label = Text(self.label(box)).append_text(Text("   " if ends else "")).append_text(Text(", ").join(ends))
            trees[i] = Tree(label) if box.parent is None else trees[box.parent].add(label)
        yield from (trees[i] for i, box in enumerate(self.layout.boxes) if box.parent is None)

    @staticmethod
    def name(strategy: str, baseline: bool) -> Text:
        return Text(strategy, style="bold").append(" (baseline)" if baseline else "", style="not bold dim")


def ledger(plan: Plan) -> Table:
    """What each source gives to each stage; of a proxy also what it leaves of the source, and the target's epochs."""
    target = plan.study.part_of_target < 1
    beside = (">subsample", ">target epochs") if target else ()
    table = plain_table("stage", "source", ">tokens", ">share", ">epochs", ">available", *beside)
    last = None
    for line in plan.ledger():
        available = "endless" if line.available is None else words.count(line.available)
        epochs = "–" if line.available is None else f"{line.epochs:.2f}"
        stage = "" if line.stage == last else line.stage
        stated = f"{available}, declared" if line.declared else available
        at_target = "–" if line.target_epochs is None else f"{line.target_epochs:.2f}"
        part = "whole" if line.subsample is None else words.count(line.subsample)
        add_row(table, stage, line.source, words.count(line.tokens), words.percent(line.share), epochs, stated,
                *((part, at_target) if target else ()))  # fmt: skip
        last = line.stage
    return table


def proxy(plan: Plan) -> list[Text]:
    """What a study that stands for a larger run takes over from it, and at what rate it is trained."""
    made, part = plan.study.proxy, plan.study.part_of_target
    if made is None:
        return []
    said = []
    if made.of_tokens is not None:
        endless = [name for name, source in plan.catalogue.sources.items() if source.tokens is None]
        left = f"; without end and left whole: {', '.join(endless)}" if endless else ""
        said.append(
            f"stands for {words.count(made.of_tokens)} tokens; each source that ends is cut to "
            f"1/{float(1 / part):,.4g}, so that its epochs are the target's{left}"
        )
    if made.learning_rate is not None:
        said.append(f"learning rates are {made.learning_rate:g} of their recipes'")
    return [Text(f"proxy: {'; '.join(said)}")]


def padding(plan: Plan) -> list[Text]:
    """What of a stage's tokens is padding."""
    return [
        Text(f"{line.stage}: {words.percent(round(line.padding, 3))} of the tokens of {line.source} are padding, since "
             f"every conversation lies whole in a row")
        for line in plan.ledger() if line.padding
    ]  # fmt: skip


def recipes(plan: Plan) -> list[RenderableType]:
    """How each stage's weights are moved; stages that are moved alike stand in one line."""
    alike: dict[str, list[str]] = {}
    for stage in dict.fromkeys(node.stage for node in plan.nodes.values()):
        alike.setdefault(words.recipe(plan.study.recipe_of(stage), plan.study.stages[stage].sweep), []).append(stage)
    lines: list[RenderableType] = [Text(f"{', '.join(stages)}: {told}") for told, stages in alike.items()]
    if plan.study.model.checkpoint and any(plan.study.rate_is_default(stage) for stage in plan.study.stages):
        lines.append(
            Text("recipe.learning_rate is not stated: the default is for fresh weights, a checkpoint wants less, such "
                 "as {optimizer: adamw, learning_rate: 2.0e-4}", style="yellow")
        )  # fmt: skip
    return lines


def twins(plan: Plan) -> list[Text]:
    """Stages that are one run under several names: a run's folder has its stage's name, so each is trained."""
    names: dict[str, dict[str, None]] = {}
    for node in plan.nodes.values():
        names.setdefault(node.fingerprint, {})[node.stage] = None
    alike = {tuple(stages): None for stages in names.values() if len(stages) > 1}
    return [
        Text(
            f"{' and '.join(stages)} are the same stage under {len(stages)} names, and each is trained; write one of "
            f"them wherever it is meant",
            style="yellow",
        )
        for stages in alike
    ]


def moving_prefixes(plan: Plan) -> list[Text]:
    """Of stages with phases, and of those that others branch from: where a longer one would not keep what is trained,
    since its learning rates are others from the first step on."""
    left = {node.parent for node in plan.nodes.values() if node.branch_step is not None}
    lines = {}
    for run, node in plan.nodes.items():
        recipe = node.recipe
        if len(node.mixtures) == 1 and run not in left:
            continue
        if recipe.schedule == "cosine":
            lines[node.stage] = "its cosine follows budget_tokens, so a longer stage is trained from its start again"
        elif recipe.warmup_tokens is None and recipe.warmup_share:
            steps = round(recipe.warmup_share * node.steps)
            keeps = f"warmup_tokens: {steps * recipe.batch_tokens}" if steps else "warmup_share: 0"
            lines[node.stage] = (
                f"its warm-up is {words.percent(recipe.warmup_share)} of budget_tokens, so a longer stage moves it and "
                f"is trained from its start again; {keeps} keeps what comes first"
            )
    return [Text(f"{stage}: {line}") for stage, line in lines.items()]


def cost(plan: Plan, estimate_seconds: float | None, based_on: str) -> list[RenderableType]:
    """Parameters, FLOPs, hours elsewhere and time here."""
    training = sum(map(plan.training_flops, plan.nodes.values()))
    evaluation = sum(map(plan.evaluation_flops, plan.nodes.values()))
    hours = {name: words.duration(3600 * plan.accelerator_hours(name)) for name in ACCELERATORS}
    told = {time: " or ".join(n for n in hours if hours[n] == time) for time in hours.values()}
    elsewhere = "; ".join(f"{time} on one {names}" for time, names in told.items())
    lines: list[RenderableType] = [
        Flowing(
            Text(piece)
            for piece in (
                f"{words.count(plan.parameters)} parameters",
                f"training {words.flops(training)} FLOPs",
                f"evaluation {words.flops(evaluation)} FLOPs",
            )
        ),
        Text(f"{elsewhere}, at {words.percent(STATED_MFU)} of its bf16 peak"),
    ]
    declared = plan.declared()
    if declared:
        lines.append(Text(f"can be planned and not run: {', '.join(declared)} only declared"))
    elif estimate_seconds is None:
        lines.append(Text("no estimate of the time here yet"))
    else:
        lines.append(Text(f"{_about(estimate_seconds)}{f', from {based_on}' if based_on else ''}"))
    return lines


def _about(seconds: float) -> str:
    return f"{'about ' * (seconds >= 1)}{words.duration(seconds)} here"


def why_view(run: str, nearest: str | None, differences: Sequence[Difference]) -> RenderableType:
    """Why a run has to be trained: the run that is most like it, and the fields in which they differ."""
    if nearest is None:
        return Text(f"{run}: new, since nothing of this stage was trained yet")
    if not differences:
        return Text(f"{run}: trained already, nothing differs from {nearest}")
    table = plain_table("field", nearest, run)
    for d in differences:
        add_row(table, d.field, *("–" if value is None else str(value) for value in (d.theirs, d.ours)))
    fields = words.plural(len(differences), "field")
    return Group(Text(f"{run}: new; {nearest} is nearest and differs in {fields}"), SPACE, table)


# ---- findings -----------------------------------------------------------------------------------------------------


def summary_view(study: Study, findings: Sequence[Finding]) -> RenderableType:
    """What the page says: the answer, the strategies, what lies between them, the curve, forgetting."""
    target = study.answer_target
    on_target = [f for f in findings if f.benchmark == target]
    parts: list[RenderableType] = [Text(answer(findings, study.question, target, compare=study.compare))]
    if {f.measure for f in on_target if f.question == "gain"} == {ACCURACY, BITS_PER_BYTE}:
        parts.append(Text(answer(findings, "In bits per byte of the solutions:", target, BITS_PER_BYTE, study.compare)))
    changes = [f for f in on_target if f.question in {"gain", "contrast"}]
    subjects = list(dict.fromkeys(f.subject for f in changes))
    changes.sort(key=lambda f: subjects.index(f.subject))
    for title, table in (
        (f"At the end, on {target} (± half a 95 % interval)", levels(on_target, "score", "strategy")),
        (
            f"Differences on {target} (bpb: bits per byte; {HOLM})",
            contrast_table(changes) if changes else None,
        ),
        *((f"Along {stage}, on {target}", table) for stage, table in curves(on_target)),
        ("Held-out bits per byte after each stage", forgotten(findings)),
    ):
        if table is not None:
            parts += [SPACE, Text(title, style="bold"), table]
    return Group(*parts)


def levels(findings: Sequence[Finding], question: str, part: str) -> Table | None:
    """One row a strategy, one column a measure: the estimate and its interval."""
    chosen = [f for f in findings if f.question == question]
    measures = [m for m in (ACCURACY, BITS_PER_BYTE) if any(f.measure == m for f in chosen)]
    if not chosen:
        return None
    table = plain_table("strategy", *(f">{m}" for m in measures), ">seeds")
    for subject in dict.fromkeys(str(f.parts[part]) for f in chosen):
        here = {f.measure: f for f in chosen if f.parts[part] == subject}
        seeds = str(max(f.seeds for f in here.values()))
        add_row(table, subject, *(level(here.get(measure)) for measure in measures), seeds)
    return table


def level(f: Finding | None) -> str:
    """`48.2 ± 7.2`, or both limits where they are not the same distance away: the unit stands in the column's head."""
    if f is None or f.estimate is None:
        return "–"
    value, found = digits(f.estimate, f.unit, f.is_change), f.interval()
    if found is None or found.low is None or found.high is None:
        return value
    up, down = (digits(x, f.unit, signed=False) for x in (found.high - f.estimate, f.estimate - found.low))
    return f"{value} ± {up}" if up == down else f"{value} ({between(found, f.unit, f.is_change)})"


def contrast_table(changes: Sequence[Finding]) -> Table:
    """Each difference with its interval of the widest claim, its corrected p, and whether it is resolved."""
    table = plain_table("over", ">estimate", "95 % interval", ">p", "")
    last = None
    for f in changes:
        subject = "" if f.subject == last else f.subject
        estimate = words.estimate(f).replace(BITS, "bpb")
        add_row(table, subject, estimate, words.interval(f), words.p_value(f.p_value), words.resolution(f))
        last = f.subject
    return table


def curves(on_target: Sequence[Finding]) -> list[tuple[str, Table]]:
    """For each stage and measure with a curve: strategies down, tokens across."""
    made = []
    along = [f for f in on_target if f.question == "curve"]
    for stage, measure in dict.fromkeys((str(f.parts["stage"]), f.measure) for f in along):
        chosen = [f for f in along if (f.parts["stage"], f.measure) == (stage, measure)]
        here = {(f.parts["strategy"], f.parts["tokens"]): f for f in chosen}
        points = sorted({int(tokens) for _, tokens in here if isinstance(tokens, int)})
        table = plain_table(measure, *(f">{words.count(tokens)}" for tokens in points))
        for strategy in dict.fromkeys(s for s, _ in here):
            add_row(table, str(strategy), *(level(here.get((strategy, tokens))) for tokens in points))
        made.append((stage, table))
    return made


def forgotten(findings: Sequence[Finding]) -> Table | None:
    """Strategy and stage down, sources across."""
    held = [f for f in findings if f.question == "held-out"]
    if not held:
        return None
    sources = list(dict.fromkeys(f.benchmark for f in held))
    table = plain_table("strategy", "after", *(f">{source}" for source in sources))
    last = None
    for strategy, position, stage in dict.fromkeys(_place(f) for f in held):
        here = {f.benchmark: f for f in held if _place(f) == (strategy, position, stage)}
        cells = (f"{f.estimate:.3f}" if (f := here.get(s)) and f.estimate is not None else "–" for s in sources)
        add_row(table, "" if strategy == last else str(strategy), str(stage), *cells)
        last = strategy
    return table


def _place(f: Finding) -> tuple[object, object, object]:
    return f.parts["strategy"], f.parts["position"], f.parts["stage"]


# ---- numbers from elsewhere ---------------------------------------------------------------------------------------


def gain_view(comparison: Comparison) -> RenderableType:
    """From one accuracy to another."""
    c = comparison
    table = plain_table(f"{c.before:g} → {c.after:g}", ">", "95 % interval")
    relative = "undefined" if c.relative_gain_percent is None else f"{digits(c.relative_gain_percent, PERCENT)} %"
    error = "–" if c.error_reduction_percent is None else f"{digits(c.error_reduction_percent, PERCENT)} %"
    add_row(table, "relative gain", relative, _limits(c.relative_interval))
    add_row(table, "difference", f"{digits(c.absolute_points, PERCENT)} points", _limits(c.absolute_interval))
    add_row(table, "errors removed", error, _limits(c.error_reduction_interval))
    if c.p_value is not None:
        add_row(table, "p (unpaired z)", words.p_value(c.p_value), "")
    about = f"Intervals speak about {c.absolute_interval.kind}." if c.absolute_interval else ""
    said = [c.undefined or "", c.note, about]
    return Group(table, *(Text(sentence, style="dim") for sentence in said if sentence))


def _limits(interval: Interval | None) -> str:
    return between(interval, PERCENT) if interval else ""


def published_view(findings: Sequence[Finding]) -> RenderableType:
    """Published tables, analysed: one table a comparison, one row a benchmark."""
    parts: list[RenderableType] = []
    for subject in dict.fromkeys(f.subject for f in findings):
        here = [f for f in findings if f.subject == subject]
        table = plain_table("benchmark", ">estimate", "95 % interval", ">p", ">n", "")
        last = None
        for f in here:
            add_row(table, "" if f.benchmark == last else f.benchmark, words.estimate(f), words.interval(f),
                words.p_value(f.p_value), f"{f.n:,}" if f.n else "–", words.resolution(f),
            )  # fmt: skip
            last = f.benchmark
        parts += [Text(subject, style="bold"), Text("; ".join(here[0].runs), style="dim"), table, SPACE]
    notes = dict.fromkeys(f.note for f in findings if f.note)
    return Group(*parts, *(Text(note, style="dim") for note in notes))


def evaluation_view(summary: Mapping[str, Mapping[str, Any]]) -> RenderableType:
    """One model's scores: `curricle evaluate`. Accuracies in `summary` are shares of 1."""
    table = plain_table("benchmark", ">n", ">correct", ">accuracy, %", "95 % interval", ">bits per byte")
    for name, line in summary.items():
        bits = line.get("bits_per_byte")
        scored = "accuracy" in line
        add_row(table, name, f"{line['n']:,}", f"{line['correct']:,}" if scored else "–",
            f"{100 * line['accuracy']:.1f}" if scored else "–",
            f"{100 * line['low']:.1f} to {100 * line['high']:.1f}" if scored else "",
            "–" if bits is None else f"{bits:.3f}",
        )  # fmt: skip
    note = "Intervals are Wilson's, over problems: they speak about these weights."
    return Group(table, Text(note, style="dim"))


def plain_table(*heads: str) -> Table:
    """A table without lines; a head that begins with `>` stands over numbers, set to the right."""
    table = Table(box=None, pad_edge=False, padding=(0, 2, 0, 0), header_style="dim")
    for head in heads:
        table.add_column(Text(head.removeprefix(">")), justify="right" if head.startswith(">") else "left")
    return table


def add_row(table: Table, *cells: str) -> None:
    """A row of plain words: a name with square brackets in it is not read as markup."""
    table.add_row(*(Text(cell) for cell in cells))
