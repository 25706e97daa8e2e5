"""Benchmarks as they are loaded: stable, readable by their own grader, and refused in a sentence when they are not."""

import gzip
import json
import subprocess
import sys
from pathlib import Path

import pytest
import yaml
import zstandard

from curricle.evaluation import benchmarks
from curricle.evaluation.benchmarks import load, texts
from curricle.evaluation.grading import grade
from curricle.study import FileBenchmark, GeneratedBenchmark, Refused

EXEMPLARS = Path(benchmarks.__file__).with_name("exemplars.yaml")


def pears(n):
    steps = f"{n}+{n} = <<{n}+{n}={2 * n}>>{2 * n}"
    return {"question": f"Ann has {n} pears and buys {n}. How many?", "answer": f"{steps}\n#### {2 * n}"}


def gsm8k(folder, rows=None, name="gsm8k.jsonl"):
    rows = rows or [pears(n) for n in range(1, 31)]
    text = "".join(json.dumps(row) + "\n" for row in rows).encode()
    pack = {".gz": gzip.compress, ".zst": zstandard.ZstdCompressor().compress}.get(Path(name).suffix, bytes)
    (folder / name).write_bytes(pack(text))
    return name


def loaded(folder, file, **settings):
    settings = {"format": "gsm8k", **settings}
    return load("word problems", FileBenchmark(file=file, **settings), lambda path: folder / path)


def test_a_generated_benchmark_is_the_first_held_out_problems_and_its_references_are_graded_correct():
    spec = GeneratedBenchmark(generated=("chain_sum", "simple_equations"), problems=40)
    benchmark = load("algebra", spec)
    assert len({item.id for item in benchmark.items}) == 40
    assert all(grade(item.reference, item.expected).correct for item in benchmark.items)
    fewer = load("algebra", spec.model_copy(update={"problems": 10}))
    assert fewer.items == benchmark.items[:10]
    assert texts(benchmark).whole and texts(benchmark).questions == [item.question for item in benchmark.items]
    assert load("another name", spec).fingerprint() == benchmark.fingerprint() != fewer.fingerprint()


@pytest.mark.parametrize("name", ["gsm8k.jsonl", "gsm8k.jsonl.gz", "gsm8k.jsonl.zst"])
def test_a_file_is_read_as_it_is_packed_and_calculator_marks_are_removed(tmp_path, name):
    benchmark = loaded(tmp_path, gsm8k(tmp_path, name=name))
    item = next(item for item in benchmark.items if "has 7 pears" in item.question)
    assert item.prompt == "Problem: Ann has 7 pears and buys 7. How many?\nSolution:\n"
    assert item.reference == "7+7 = 14\nAnswer: 14\n" and item.expected == "14"
    assert len(benchmark.exemplars) == 4 and not texts(benchmark).whole


def test_n_problems_are_the_same_random_subset_whatever_the_order_of_the_file(tmp_path):
    all_of_them = loaded(tmp_path, gsm8k(tmp_path))
    rows = [json.loads(line) for line in (tmp_path / "gsm8k.jsonl").read_text().splitlines()]
    turned = loaded(tmp_path, gsm8k(tmp_path, rows[::-1] + rows[:3], "turned.jsonl"), problems=12)
    assert turned.items == all_of_them.items[:12]
    assert [item.question for item in all_of_them.items] != [row["question"] for row in rows]


def test_fewer_shots_are_another_benchmark(tmp_path):
    file = gsm8k(tmp_path)
    none = loaded(tmp_path, file, shots=0)
    assert none.exemplars == () and none.fingerprint() != loaded(tmp_path, file, shots=1).fingerprint()


@pytest.mark.parametrize(
    ("rows", "message"),
    [
        (
            [{"problem": "1+1?", "answer": "#### 2"}],
            "line 1: the format gsm8k reads the text fields question and answer; 'question' is not there; "
            "found: answer, problem",
        ),
        (
            [{"question": "1+1?", "answer": "2"}],
            "line 1: answer holds no answer; it should have a final `#### ANSWER`",
        ),
        ([["1+1?"]], "line 1: a list; each line is one JSON object"),
    ],
)
def test_a_file_with_other_fields_is_refused_and_says_which(tmp_path, rows, message):
    with pytest.raises(Refused) as refused:
        loaded(tmp_path, gsm8k(tmp_path, rows))
    assert message in str(refused.value) and str(refused.value).startswith("benchmarks.word problems.file: ")


def test_a_missing_broken_or_too_small_file_is_refused(tmp_path):
    with pytest.raises(Refused, match=r"nowhere\.jsonl: no such file"):
        loaded(tmp_path, "nowhere.jsonl")
    (tmp_path / "broken.jsonl").write_text('{"question": ')
    with pytest.raises(Refused, match=r"broken\.jsonl, line 1: not JSON"):
        loaded(tmp_path, "broken.jsonl")
    (tmp_path / "cut.jsonl.gz").write_bytes(gzip.compress(b"{}" * 1000)[:-12])
    with pytest.raises(Refused, match=r"cut\.jsonl\.gz"):
        loaded(tmp_path, "cut.jsonl.gz")
    packed = bytearray(gzip.compress(b"{}\n" * 1000 + bytes(range(256)) * 40))
    packed[60:64] = b"\xff\xff\xff\xff"
    (tmp_path / "damaged.jsonl.gz").write_bytes(packed)
    with pytest.raises(Refused, match=r"damaged\.jsonl\.gz, (after )?line \d+"):
        loaded(tmp_path, "damaged.jsonl.gz")
    lines = [json.dumps(pears(n)).encode() + b"\n" for n in range(1, 31)]
    pack = zstandard.ZstdCompressor().compressobj()
    whole_lines = pack.compress(b"".join(lines[:9])) + pack.flush(zstandard.COMPRESSOBJ_FLUSH_BLOCK)
    (tmp_path / "cut.jsonl.zst").write_bytes(whole_lines)
    with pytest.raises(Refused, match=r"cut\.jsonl\.zst, after line 9: not readable: the archive ends inside a frame"):
        loaded(tmp_path, "cut.jsonl.zst")
    (tmp_path / "half.jsonl").write_bytes(lines[0] + b'{"question": "\\ud800?", "answer": "#### 1"}\n')
    with pytest.raises(Refused, match=r"half\.jsonl, line 2: holds half of a surrogate pair"):
        loaded(tmp_path, "half.jsonl")
    with pytest.raises(Refused, match="holds 30 problems; 31 are asked for"):
        loaded(tmp_path, gsm8k(tmp_path), problems=31)
    (tmp_path / "empty.jsonl").touch()
    with pytest.raises(Refused, match="holds 0 problems"):
        loaded(tmp_path, "empty.jsonl")


def test_every_exemplar_states_an_answer_that_its_own_reader_finds():
    exemplars = yaml.safe_load(EXEMPLARS.read_text())
    answers = {name: [grade(shot["solution"], "").answer for shot in shots] for name, shots in exemplars.items()}
    assert answers == {
        "gsm8k": ["22", "5", "27", "380"],
        "math": ["11", "\\frac{5}{33}", "4", "2\\sqrt{21}"],
    }


PUBLISHED = [("gsm8k", "gsm8k", 1319), ("math", "math", 5000), ("math500", "math", 500)]


@pytest.mark.parametrize(("folder", "kind", "n"), PUBLISHED)
def test_published_files_load_whole_and_no_exemplar_is_among_them(data, folder, kind, n):
    benchmark = load(folder, FileBenchmark(file=str(data / folder / "test.jsonl.gz"), format=kind))
    assert len(benchmark.items) == n
    assert all(grade(item.reference, item.expected).correct for item in benchmark.items)
    shots = {shot["question"] for shot in yaml.safe_load(EXEMPLARS.read_text())[kind]}
    assert not shots & set(texts(benchmark).questions)


def test_a_file_of_answers_without_solutions_is_refused(data):
    with pytest.raises(Refused, match=r"'solution' is not there; found: answer, level, problem, type"):
        load("math", FileBenchmark(file=str(data / "math" / "train.jsonl.gz"), format="math"))


def test_benchmarks_and_graders_load_without_torch():
    program = (
        "import sys, curricle.evaluation.benchmarks, curricle.evaluation.grading; sys.exit('torch' in sys.modules)"
    )
    assert subprocess.run([sys.executable, "-c", program], check=False).returncode == 0
