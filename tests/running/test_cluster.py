"""Runs as tasks of a local Ray: the same weights to the bit; what dies, in the cluster or before it, costs little."""

from __future__ import annotations

import importlib.util
import os
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
import uuid
from contextlib import nullcontext, suppress
from pathlib import Path
from types import SimpleNamespace

import pytest
from tiny_study import tiny, write_study

from curricle.commands.training import resources_of, run_with_workers
from curricle.execution import Execution
from curricle.remote import Remote
from curricle.running import cluster, runner, transfer
from curricle.running.preparation import make_plan, prepare
from curricle.store import Store, is_complete, read_json
from curricle.study import Refused
from curricle.studyfile import load_study


def on_ray(test):
    """These start a local Ray: `make test-all` installs it."""
    absent = importlib.util.find_spec("ray") is None
    return pytest.mark.slow(pytest.mark.skipif(absent, reason="the ray extra is not installed")(test))


def weights(root: Path, runs: list[str]) -> dict[str, bytes]:
    return {run: (Store(root).run_folder(run) / "model" / "model.safetensors").read_bytes() for run in runs}


def weights_at(url: str, here: Path, runs: list[str]) -> dict[str, bytes]:
    assert all(Remote(url).pull(Store(here), f"runs/{run}/model") for run in runs)
    return weights(here, runs)


@pytest.mark.parametrize("on", ["ray", "ray://", "ray://host", "slurm", "ray://host:port"])
def test_an_address_that_is_none_is_refused(on):
    with pytest.raises(Refused, match="use ray://HOST:PORT, ray:auto, or local"), cluster.reached(on):
        pass


def test_a_missing_ray_is_refused_with_the_way_to_get_it(monkeypatch):
    monkeypatch.setitem(sys.modules, "ray", None)
    with pytest.raises(Refused, match=r"pip install 'curricle\[ray\]'"), cluster.reached("local"):
        pass


def test_a_remote_store_without_a_cluster_is_refused(study, tmp_path):
    with pytest.raises(Refused, match="--remote: goes with --on"):
        runner.run(make_plan(study, tmp_path / "store"), store=tmp_path / "store", remote="memory://x")


def test_paths_of_this_machine_are_refused_where_only_an_object_store_is_shared(study, tmp_path):
    from dataclasses import replace

    from curricle.running.transfer import refuse_outside

    prepared = prepare(study, Store(tmp_path / "store"))
    refuse_outside(prepared)
    with pytest.raises(Refused, match=r"tokenizer\.path: .* is a path of this machine"):
        refuse_outside(replace(prepared, tokenizer=tmp_path))


def test_what_is_prepared_here_can_be_read_from_any_folder_and_at_another_root(study_file, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    prepared = prepare(load_study(study_file.name), Store("store"))
    moved = prepared.moved(tmp_path / "elsewhere")
    monkeypatch.chdir("/")
    assert moved.study.resolve("code.jsonl") == study_file.with_name("code.jsonl")
    places = [*moved.corpora.values(), *moved.shards.values(), moved.tokenizer, moved.stream("algebra", 0)]
    assert all(place.is_relative_to(tmp_path / "elsewhere") for place in places)


def test_a_post_box_that_lost_its_memory_is_told_again_to_stop(monkeypatch):
    """An actor whose node dies begins anew elsewhere; tasks that ask it must still learn that they are to stop."""
    ray = SimpleNamespace(get=lambda answer: answer, wait=lambda tasks, timeout: ([], tasks), cancel=lambda task: None)
    monkeypatch.setitem(sys.modules, "ray", ray)
    node = SimpleNamespace(run="math/0")

    def reached_by(post):
        return SimpleNamespace(
            **{name: SimpleNamespace(remote=getattr(post, name)) for name in ("begin", "take", "stop", "asked_to_stop")}
        )

    crew = cluster.RayCrew.__new__(cluster.RayCrew)
    crew._tasks, crew._stopping, first = {"task": node}, False, cluster.Post()
    crew._post = reached_by(first)
    first.begin(node.run)
    crew.listen(0)
    assert not first.asked_to_stop()
    crew.stop()
    second = cluster.Post()
    crew._post = reached_by(second)
    crew.listen(0)
    assert second.asked_to_stop()


def test_a_task_that_died_has_left_its_run_and_the_driver_says_what_becomes_of_it(monkeypatch):
    def get(task):
        raise RuntimeError("The node is gone")

    monkeypatch.setitem(sys.modules, "ray", SimpleNamespace(get=get))
    crew = cluster.RayCrew.__new__(cluster.RayCrew)
    for _ in range(3):
        crew._tasks = {"task": SimpleNamespace(run="math/0")}
        said = crew._end("task")
        assert (said.kind, said.run, said.text) == ("stopped", "math/0", "its task died: The node is gone")


def test_a_run_asks_for_what_it_is_told_to_and_uses_its_threads(monkeypatch):
    assert cluster.needs(Execution(ranks=2), on_gpus=True) == {"CPU": 2, "GPU": 2}
    asked = {"CPU": 6, "memory": 16e9, "fast": 1}
    told = Execution(ranks=2, resources=asked)
    assert cluster.needs(told) == asked and cluster.needs(told, on_gpus=True) == {**asked, "GPU": 2}
    assert cluster.needs(Execution(ranks=2, resources={"GPU": 0}), on_gpus=True)["GPU"] == 0
    assert cluster.needs(Execution(resources={"GPU": 0.5}), on_gpus=True)["GPU"] == 0.5
    with pytest.raises(Refused, match="--resource GPU=1: 2 ranks take 2, or 0"):
        cluster.needs(Execution(ranks=2, resources={"GPU": 1}))
    assert cluster.needs(Execution(resources={"GPU": 2.0}))["GPU"] == 2
    with pytest.raises(Refused, match=r"--resource GPU=1\.5: Ray shares out one GPU in parts"):
        cluster.needs(Execution(resources={"GPU": 1.5}))
    threads: list[int] = []
    monkeypatch.setattr("torch.set_num_threads", threads.append)
    monkeypatch.setattr(cluster, "told", lambda *_: iter(()))
    for execution in (Execution(), Execution(resources={"CPU": 3}), Execution(resources={"CPU": 0.5})):
        assert list(cluster._told(None, None, execution, lambda: False)) == []
    assert threads == [1, 3, 1]


def test_resources_are_read_as_they_are_written_and_refused_without_a_cluster():
    assert resources_of(["CPU=4", "GPU=0.5", "memory=16e9", "fast=1"], "ray:auto") == {
        "CPU": 4.0, "GPU": 0.5, "memory": 16e9, "fast": 1.0}  # fmt: skip
    for wrong in ("CPU", "CPU=", "CPU=many", "=1", "GPU=-1", "CPU=0", "memory=inf", "fast=nan"):
        with pytest.raises(Refused, match=f"--resource {wrong}: write NAME=AMOUNT"):
            resources_of([wrong], "local")
    with pytest.raises(Refused, match="--resource: goes with --on"):
        resources_of(["CPU=2"], None)


def fake_ray(monkeypatch, versions: dict[str, dict[str, str]]) -> None:
    """A Ray whose nodes have these versions; a task runs where it is bound to."""
    nodes = [{"Alive": True, "NodeID": name[::-1], "NodeManagerHostname": name} for name in versions]
    options = lambda num_cpus, scheduling_strategy: SimpleNamespace(  # noqa: E731
        remote=lambda: versions[scheduling_strategy[::-1]]
    )
    ray = SimpleNamespace(
        nodes=lambda: nodes,
        remote=lambda function: SimpleNamespace(options=options),
        get=lambda answer: answer,
        exceptions=SimpleNamespace(RayError=RuntimeError),
    )
    strategies = SimpleNamespace(NodeAffinitySchedulingStrategy=lambda node, soft: node)
    for name, module in (("ray", ray), ("ray.util", ray), ("ray.util.scheduling_strategies", strategies)):
        monkeypatch.setitem(sys.modules, name, module)


def test_one_node_of_many_with_other_versions_is_refused_by_name(monkeypatch):
    ours = cluster._versions()
    fake_ray(monkeypatch, {"one": ours, "two": ours, "three": ours})
    cluster._refuse_other_versions("ray:auto")
    fake_ray(monkeypatch, {"one": ours, "two": ours | {"torch": "1.0"}, "three": ours})
    with pytest.raises(Refused, match=r"--on ray:auto: two has .*'torch': '1\.0'"):
        cluster._refuse_other_versions("ray:auto")


def test_a_node_that_joins_later_with_other_versions_refuses_its_first_run(monkeypatch):
    fake_ray(monkeypatch, {})
    other = cluster._versions() | {"transformers": "4.0"}
    said = cluster.work(None, None, SimpleNamespace(run="math/0"), None, None, other)
    assert said.kind == "refused" and socket.gethostname() in said.text and "'transformers': '4.0'" in said.text


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    """The tiny study on processes of this machine: its folder, its plan, its weights."""
    folder = tmp_path_factory.mktemp("study")
    write_study(folder, tiny())
    plan = make_plan(load_study(folder / "tiny.yaml"), folder / "store")
    runner.run(plan, store=folder / "store", out=folder / "out", workers=2)
    return folder, plan, weights(folder / "store", list(plan.nodes))


@pytest.fixture
def fresh(trained, tmp_path):
    """The same study in a folder where nothing is trained."""
    shutil.copy2(trained[0] / "code.jsonl", tmp_path / "code.jsonl")
    shutil.copy2(trained[0] / "tiny.yaml", tmp_path / "tiny.yaml")
    return tmp_path


def go(folder: Path, **options) -> list:
    said = []
    plan = make_plan(load_study(folder / "tiny.yaml"), folder / "store")
    runner.run(plan, store=folder / "store", out=folder / "out", show=said.append, **options)
    return said


def test_a_driver_sees_what_the_remote_store_has_and_wants_no_room_for_weights_that_stay_there(
    trained, fresh, monkeypatch, capsys
):
    url = f"file://{fresh}/remote"
    there = prepare(load_study(trained[0] / "tiny.yaml"), Store(trained[0] / "store"))
    for node in trained[1].nodes.values():
        transfer.push_run(Remote(url), there, node)
    monkeypatch.setattr(cluster, "reached", lambda *_: nullcontext())
    monkeypatch.setattr(shutil, "disk_usage", lambda _: SimpleNamespace(free=10**6))
    assert go(fresh, on="local", remote=url) == [], "all is done there"
    study, store = load_study(fresh / "tiny.yaml"), fresh / "another store"
    run_with_workers(study, fresh / "out", store, Execution(), "", None, None, "local", url, [])
    assert "0 stages to train, 5 done" in capsys.readouterr().out
    assert (fresh / "out" / "report.html").exists() and not list(store.glob("runs/*/*/model"))


@on_ray
def test_a_cluster_that_does_not_answer_is_refused():
    with pytest.raises(Refused, match="no Ray cluster answers there"), cluster.reached("ray://127.0.0.1:9"):
        pass


@on_ray
def test_weights_are_those_of_processes_to_the_bit(trained, fresh):
    said = go(fresh, on="local")
    assert weights(fresh / "store", list(trained[1].nodes)) == trained[2]
    assert sorted(m.run for m in said if m.kind == "done") == sorted(trained[1].nodes)
    assert {m.kind for m in said} >= {"step", "evaluating", "done"}
    assert go(fresh, on="local") == [], "nothing is trained twice"


@on_ray
def test_a_task_that_is_killed_goes_on_from_its_checkpoint(trained, fresh):
    killed: list[int] = []

    def kill_first(message):
        if message.kind == "step" and message.run.startswith("math") and not killed:
            killed.extend(kill_tasks())

    plan = make_plan(load_study(fresh / "tiny.yaml"), fresh / "store")
    runner.run(plan, store=fresh / "store", out=fresh / "out", show=kill_first, on="local")
    assert killed
    assert weights(fresh / "store", list(plan.nodes)) == trained[2]


@on_ray
def test_a_run_whose_task_dies_again_and_again_has_failed(fresh):
    def kill_always(message):
        if message.kind == "step":
            kill_tasks()

    plan = make_plan(load_study(fresh / "tiny.yaml", LONG), fresh / "store")
    with pytest.raises(runner.Failed, match="twice without coming further: its task died"):
        runner.run(plan, store=fresh / "store", out=fresh / "out", show=kill_always, on="local")


def kill_tasks() -> list[int]:
    """Kill the processes of our local Ray that work on a run."""
    import psutil

    working = []
    for process in psutil.Process().children(recursive=True):
        with suppress(psutil.Error):  # it has just gone
            title = "".join(process.cmdline()[:1])
            if title.startswith("ray::") and "/" in title:  # named after the run
                process.kill()
                working.append(process.pid)
    return working


LONG = ["stages.math.budget_tokens=20480", "stages.code.budget_tokens=20480"]
SET = [part for change in LONG for part in ("--set", change)]


@pytest.fixture(scope="module")
def longer(trained):
    """The weights of the study with longer stages, on processes."""
    folder = trained[0]
    plan = make_plan(load_study(folder / "tiny.yaml", LONG), folder / "store")
    runner.run(plan, store=folder / "store", out=folder / "out", workers=2)
    return weights(folder / "store", list(plan.nodes))


@on_ray
@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGKILL])
def test_a_driver_that_is_stopped_goes_on_to_the_same_weights(longer, fresh, number):
    command = [sys.executable, "-m", "curricle", "run", "tiny.yaml", "--store", "store", "--out", "out", *SET]
    with subprocess.Popen(
        [*command, "--on", "local"], stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, cwd=fresh
    ) as driver:
        until = time.monotonic() + 120
        while not any(f.read_text() for f in fresh.glob("store/runs/*/*/metrics.jsonl")):
            assert time.monotonic() < until
            time.sleep(0.1)
        driver.send_signal(number)
        said = driver.stdout.read()
    assert driver.returncode == (-9 if number == signal.SIGKILL else 130), said
    if number == signal.SIGTERM:
        assert any(is_complete(f) for f in fresh.glob("store/runs/*/*/checkpoints/step-*")), "saved before it left"
    done = subprocess.run([*command, "--on", "local"], capture_output=True, text=True, cwd=fresh)
    assert done.returncode == 0, done.stderr
    assert weights(fresh / "store", list(longer)) == longer


@on_ray
def test_two_stores_that_share_an_object_store_only(trained, fresh, monkeypatch, tmp_path):
    monkeypatch.setenv("CURRICLE_SCRATCH", str(tmp_path / "node"))
    remote = f"file://{tmp_path}/remote"
    said = go(fresh, on="local", remote=remote)
    runs = list(trained[1].nodes)
    assert sorted(m.run for m in said if m.kind == "done") == sorted(runs)
    assert weights_at(remote, tmp_path / "pulled", runs) == trained[2]
    assert not list(fresh.glob("store/runs/*/*/model")), "the driver has rows, no weights"
    last = next(run for run in runs if run.startswith("instruct"))
    assert not (tmp_path / "node" / "runs" / last).exists(), "a node's folder is emptied of what is done"
    assert (fresh / "out" / "results" / "evaluations.parquet").exists()
    # Another driver, on another machine, on other nodes: all is there.
    monkeypatch.setenv("CURRICLE_SCRATCH", str(tmp_path / "other-node"))
    shutil.rmtree(fresh / "store")
    assert go(fresh, on="local", remote=remote) == []
    # What is lost of a run there is made again from what its parent left there.
    shutil.rmtree(tmp_path / "remote" / "runs" / last)
    assert [m.run for m in go(fresh, on="local", remote=remote) if m.kind == "done"] == [last]
    assert weights_at(remote, tmp_path / "pulled again", runs) == trained[2]


@on_ray
def test_two_ranks_in_a_task(trained, fresh):
    said = go(fresh, on="local", execution=Execution(ranks=2), workers=2)
    assert sorted(m.run for m in said if m.kind == "done") == sorted(trained[1].nodes)


@on_ray
def test_more_ranks_than_any_node_has_room_for_are_refused(fresh):
    with pytest.raises(Refused, match="a run takes 4 CPU on one node"):
        go(fresh, on="local", execution=Execution(ranks=4), workers=2)
    with pytest.raises(Refused, match="a run takes 1 CPU, 2 fast on one node"):
        go(fresh, on="local", execution=Execution(resources={"fast": 2}), workers=2)


@on_ray
def test_a_task_gets_what_it_asks_for_and_says_so_in_its_receipt(fresh):
    asked = Execution(resources={"CPU": 2, "memory": 2**20})
    said = go(fresh, on="local", execution=asked, workers=2)
    runs = [message.run for message in said if message.kind == "done"]
    receipts = [read_json(Store(fresh / "store").run_folder(run) / "receipt.json")["sessions"] for run in runs]
    assert runs and all(session["threads"] == 2 for sessions in receipts for session in sessions)
    busy: set[str] = set()
    for message in said:  # two CPUs hold one such run at a time
        busy = busy - {message.run} if message.kind == "done" else busy | {message.run}
        assert len(busy) <= 1


@pytest.fixture
def head(monkeypatch):
    """The address of a cluster of one node, started as an administrator would, with a token of its own."""
    gcs, client = free_ports(2)
    token = {"RAY_AUTH_MODE": "token", "RAY_AUTH_TOKEN": uuid.uuid4().hex, "RAY_USAGE_STATS_ENABLED": "0"}
    for name, value in token.items():
        monkeypatch.setenv(name, value)
    with tempfile.TemporaryDirectory(prefix="ray-") as folder:  # short, since sockets lie in it
        options = [f"--port={gcs}", f"--ray-client-server-port={client}", f"--temp-dir={folder}", "--num-cpus=2"]
        command = [str(Path(sys.executable).with_name("ray")), "start", "--head", "--block", *options]
        with open(f"{folder}/said", "w") as said:
            started = subprocess.Popen([*command, "--include-dashboard=false"], stdout=said, stderr=said)
        try:
            until = time.monotonic() + 60
            while "block" not in Path(folder, "said").read_text():
                assert started.poll() is None and time.monotonic() < until, Path(folder, "said").read_text()
                time.sleep(0.2)
            yield f"ray://127.0.0.1:{client}"
        finally:
            started.terminate()
            started.wait(60)


def free_ports(number: int) -> list[int]:
    held = [socket.create_server(("127.0.0.1", 0)) for _ in range(number)]
    ports = [server.getsockname()[1] for server in held]
    for server in held:
        server.close()
    return ports


@on_ray
def test_a_cluster_that_is_reached_by_its_address(trained, fresh, head):
    command = [sys.executable, "-m", "curricle", "run", "tiny.yaml", "--store", "store", "--out", "out", "--on", head]
    done = subprocess.run(command, capture_output=True, text=True, cwd=fresh)
    assert done.returncode == 0, done.stderr
    assert weights(fresh / "store", list(trained[1].nodes)) == trained[2]
    wrong = subprocess.run(command, capture_output=True, text=True, cwd=fresh, env=os.environ | {"RAY_AUTH_TOKEN": "x"})
    assert wrong.returncode == 2 and "RAY_AUTH_MODE=token" in wrong.stderr, wrong.stderr
