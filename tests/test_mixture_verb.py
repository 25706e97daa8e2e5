"""`curricle mixture`: files as RegMix and olmix write them, tables, JSON, predictions, refusals in a line."""

from __future__ import annotations

import csv
import json
import subprocess
from pathlib import Path

import numpy as np
import pytest
from verbs import curricle as verb


def curricle(*arguments: object, cwd: Path) -> subprocess.CompletedProcess[str]:
    return verb("mixture", *arguments, cwd=cwd)


def write(path: Path, head: list[str], rows: list[list[object]]) -> None:
    with path.open("w", newline="") as file:
        csv.writer(file).writerows([head, *rows])


@pytest.fixture(scope="module")
def place(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("mixture")
    random = np.random.default_rng(0)
    p = random.dirichlet(np.full(3, 0.7), 24).round(3)
    loss = np.stack([3 - 0.8 * np.sqrt(p[:, j]) - 0.2 * np.sqrt(p[:, (j + 1) % 3]) for j in range(2)], 1)
    loss += random.normal(0, 0.01, loss.shape)
    sources, metrics = ["web", "code", "math"], ["metric/web_loss", "metric/code_loss"]
    write(folder / "ratios.csv", ["index", *sources], [[i, *q] for i, q in enumerate(p.tolist(), 1)])
    write(folder / "metrics.csv", ["index", *metrics], [[i, *y] for i, y in enumerate(loss.tolist(), 1)])
    write(folder / "others.csv", ["index", "math", "web", "code"], [["a", 0.2, 0.5, 0.3], ["b", 0, 0, 1]])
    write(folder / "tokens.csv", ["source", "tokens"], [["web", 5e11], ["code", 1e10], ["math", 1e11]])
    return folder


FILES = ("--ratios", "ratios.csv", "--metrics", "metrics.csv")


def test_a_mixture_as_tables_and_as_one_object(place):
    shown = curricle(*FILES, "--available", "tokens.csv", "--budget-tokens", "100B", "--max-epochs", "2", cwd=place)
    assert shown.returncode == 0, shown.stderr
    assert all(
        word in shown.stdout for word in ("recommended mixture", "lower than natural by", "optimism", "next runs")
    )
    told = " ".join(shown.stdout.split())
    assert "a gain's about the difference of two" in told and "there is a gain at all, and may be the wider" in told
    as_json = curricle(*FILES, "--target", "metric/code_loss", "--json", "--figures", "drawn", cwd=place)
    found = json.loads(as_json.stdout)["findings"]
    drawn = json.loads(as_json.stdout)["figures"]
    assert {name.split("-swarm")[0] for name in drawn} == {"mixture", "mixture-gain", "mixture-fit", "mixture-next"}
    assert all((place / "drawn" / f"{name}{end}").is_file() for name in drawn for end in (".svg", ".png"))
    assert as_json.stderr == "" and [f["question"] for f in found][:2] == ["mixture", "mixture-gain"]
    assert all("so it may be the wider" in f["note"] for f in found if f["question"] == "mixture-gain")
    assert found[0]["measure"] == "metric/code_loss" and found[0]["table"][0]["source"] == "code"


def test_predictions_have_the_same_key_and_each_metric_with_its_limits(place):
    done = curricle(*FILES, "--predict", "others.csv", "--out", "said.csv", cwd=place)
    assert done.returncode == 0, done.stderr
    rows = list(csv.DictReader((place / "said.csv").open()))
    assert [row["index"] for row in rows] == ["a", "b"]
    for metric in ("metric/web_loss", "metric/code_loss"):
        assert all(float(r[f"{metric}_low"]) <= float(r[metric]) <= float(r[f"{metric}_high"]) for r in rows)
    assert float(rows[1]["metric/code_loss"]) < float(rows[0]["metric/code_loss"])


@pytest.mark.parametrize(
    ("option", "out"),
    [
        ("--ratios", "ratios.csv"),
        ("--metrics", "./drawn/../metrics.csv"),
        ("--predict", "linked.csv"),
        ("--larger-ratios", "larger.csv"),
    ],
)
def test_predictions_never_take_the_place_of_what_is_read(place, option, out):
    (place / "drawn").mkdir(exist_ok=True)
    if not (place / "linked.csv").is_symlink():
        (place / "linked.csv").symlink_to("others.csv")
    (place / "larger.csv").write_bytes((place / "ratios.csv").read_bytes())
    before = (place / out).read_bytes()
    larger = ("--larger-ratios", "larger.csv", "--larger-metrics", "metrics.csv")
    shown = curricle(*FILES, *larger, "--predict", "others.csv", "--out", out, cwd=place)
    assert shown.returncode == 2 and f"--out {Path(out)}: is what {option} reads" in shown.stderr
    assert (place / out).read_bytes() == before


def test_earlier_predictions_are_replaced(place):
    (place / "earlier.csv").write_text("index\n")
    done = curricle(*FILES, "--predict", "others.csv", "--out", "earlier.csv", cwd=place)
    assert done.returncode == 0 and len((place / "earlier.csv").read_text().splitlines()) == 3


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (("--target", "metric/web_los"), "--target: unknown metric 'metric/web_los'; did you mean"),
        (
            ("--target", "web"),
            "unknown metric 'web'; did you mean 'metric/web_loss'? known: metric/web_loss, metric/code",
        ),
        (("--target", "arxiv"), "unknown metric 'arxiv'; known: metric/code_loss, metric/web_loss"),
        (("--max-epochs", "-1"), "--max-epochs -1: how often a source may be seen, above 0"),
        (("--max-epochs", "nan"), "--max-epochs nan"),
        (("--max-epochs", "2"), "--max-epochs goes with --available and --budget-tokens"),
        (("--bound", "web=3"), "--bound: unknown metric 'web'; did you mean"),
        (("--method", "gpp"), "--method gpp: unknown"),
        (("--predict", "others.csv"), "--predict and --out go together"),
        (("--budget-tokens", "100B"), "--available and --budget-tokens go together"),
        (("--bound", "metric/web_loss"), "write METRIC=VALUE"),
        (
            ("--predict", "others.csv", "--out", "x.csv", "--natural", "tokens.csv", "--max-kl", "0.1"),
            "--natural, --max-kl: of a recommendation only",
        ),
        (("--predict", "others.csv", "--out", "x.csv", "--bound", "metric/web_loss=2"), "--bound: of a recommendation"),
        (("--natural", "nowhere.csv"), "--natural nowhere.csv"),
    ],
)
def test_what_is_refused_is_said_in_a_line(place, arguments, said):
    shown = curricle(*FILES, *arguments, cwd=place)
    assert shown.returncode == 2 and shown.stdout == "" and said in shown.stderr and "Traceback" not in shown.stderr


def test_shares_that_are_given_as_metrics_are_refused_by_name(place):
    shown = curricle("--ratios", "ratios.csv", "--metrics", "ratios.csv", cwd=place)
    assert shown.returncode == 2 and "metrics: 'web', 'code', 'math': the shares of ratios" in shown.stderr


def test_an_accuracy_is_not_lowered_in_silence(place):
    rows = list(csv.reader((place / "metrics.csv").open()))
    write(place / "scored.csv", [*rows[0][:2], "metric/acc"], list(rows[1:]))
    files = ("--ratios", "ratios.csv", "--metrics", "scored.csv")
    for arguments in ((), ("--target", "metric/acc")):
        shown = curricle(*files, *arguments, cwd=place)
        assert shown.returncode == 2 and "--target: metric/acc: higher is better" in shown.stderr
    assert curricle(*files, "--target", "metric/web_loss", cwd=place).returncode == 0


def test_a_row_of_the_wrong_length_and_a_column_twice_are_refused(place):
    (place / "short.csv").write_text("index,web,code,math\n1,0.5,0.5\n")
    (place / "twice.csv").write_text("index,web,web\n1,0.5,0.5\n")
    for name, said in (("short.csv", "line 2 has not 4 fields"), ("twice.csv", "column 'web' stands twice")):
        shown = curricle("--ratios", name, "--metrics", "metrics.csv", cwd=place)
        assert shown.returncode == 2 and said in shown.stderr
