"""`list`, `diff`, `explain` and `clean`: what a store holds, how it differs, what it was made of, what it can lose.

Nothing is removed without being asked for by `--remove`.
"""

from __future__ import annotations

from typing import Annotated

import typer

from curricle.commands.common import STORE, StoreOption, make_console


def list_(store: StoreOption = STORE) -> None:
    """List the studies that ship and the runs in the store."""
    from curricle.report.listing import list_view
    from curricle.running import upkeep
    from curricle.store import Store
    from curricle.studyfile import SHIPPED, load_study

    shipped = {file.stem: load_study(file).question for file in sorted(SHIPPED.glob("*.yaml"))}
    make_console().print(list_view(shipped, upkeep.listing(Store(store)), store))


def diff(
    one: Annotated[str, typer.Argument(help="A study, or a run.")],
    other: Annotated[str, typer.Argument(help="Another.")],
    store: StoreOption = STORE,
) -> None:
    """Say how two studies, or two runs, differ."""
    from curricle.difference import differences
    from curricle.report.listing import diff_view
    from curricle.running import upkeep
    from curricle.store import Store

    values = [upkeep.described(Store(store), name) for name in (one, other)]
    make_console().print(diff_view(one, other, differences(values[1], values[0])))


def explain(
    run: Annotated[str, typer.Argument(help="A run, or the beginning of its name.")],
    step: Annotated[int, typer.Option(help="The step, from 1.")],
    store: StoreOption = STORE,
    full: Annotated[bool, typer.Option("--full", help="Print all text that the step read.")] = False,
) -> None:
    """Show the documents behind the batch of one step of a run."""
    from dataclasses import asdict

    from curricle.report.listing import explained_view
    from curricle.running.explain import explain as explained
    from curricle.store import Store

    make_console().print(explained_view(asdict(explained(Store(store), run, step)), full), soft_wrap=full)


def clean(
    store: StoreOption = STORE,
    remove: Annotated[bool, typer.Option("--remove", help="Remove what is listed.")] = False,
) -> None:
    """List what no study refers to any more; with --remove, remove it."""
    from curricle.report.listing import clean_view
    from curricle.running import upkeep
    from curricle.store import Store
    from curricle.study import Refused

    if not store.is_dir():
        raise Refused(f"--store {store}: no such folder")
    place = Store(store)
    unused = upkeep.unused(place)
    if remove:
        upkeep.remove(place, list(unused))
    make_console().print(clean_view(unused, removed=remove))
