"""A driver that is asked to stop leaves with 130 at any time, also before it trains, and nothing stays half written."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time

import pytest
from tiny_study import tiny, write_study
from verbs import HUNG_SECONDS

from curricle.stopping import asked_to_stop, obeyed_at_once
from curricle.store import is_complete


@pytest.mark.parametrize("number", [signal.SIGTERM, pytest.param(signal.SIGINT, marks=pytest.mark.slow)])
def test_who_is_struck_while_a_study_is_prepared_leaves_with_130(tmp_path, number):
    write_study(tmp_path, tiny())
    with open(tmp_path / "code.jsonl", "w", encoding="utf-8") as lines:  # enough to be struck while it is read
        for at in range(60_000):
            lines.write(json.dumps({"text": f"def f{at}(x):\n    return x + {at}\n" * 8, "path": f"f{at}.py"}) + "\n")
    command = [sys.executable, "-m", "curricle", "run", "tiny.yaml"]
    driver = subprocess.Popen(command, cwd=tmp_path, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
    corpora = tmp_path / "runs" / "store" / "corpora"
    while not list(corpora.glob(".*.tmp")) and driver.poll() is None:
        time.sleep(0.005)
    driver.send_signal(number)
    said, _ = driver.communicate()
    assert driver.returncode == 130 and said.count("interrupted; what was whole is kept") == 1, said
    assert not list(corpora.glob(".*.tmp")) and all(map(is_complete, corpora.iterdir()))


def test_a_signal_is_obeyed_until_runs_train_and_again_after_them():
    before = signal.getsignal(signal.SIGTERM)
    with obeyed_at_once():
        with asked_to_stop() as asked:
            assert not asked()
            os.kill(os.getpid(), signal.SIGTERM)
            assert asked(), "noted"
        with pytest.raises(KeyboardInterrupt):
            os.kill(os.getpid(), signal.SIGTERM)
    assert signal.getsignal(signal.SIGTERM) is before


def test_a_rank_that_waits_for_the_others_hears_a_signal(tmp_path):
    waits = f"""
import os, signal, threading
from curricle.stopping import obeyed_at_once
from curricle.training.distribution import Ranks
with obeyed_at_once():
    threading.Timer(1, os.kill, (os.getpid(), signal.SIGTERM)).start()
    try:
        Ranks.join(0, 2, "file://{tmp_path / "meet"}")
    except KeyboardInterrupt:
        print("heard")
"""
    done = subprocess.run([sys.executable, "-c", waits], capture_output=True, text=True, timeout=HUNG_SECONDS)
    assert done.stdout == "heard\n" and done.returncode == 0, done.stderr
