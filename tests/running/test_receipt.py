"""What a session ran on is told by its versions."""

import numpy
import torch
import transformers

import curricle
from curricle.running.receipt import receipt
from curricle.training.distribution import Ranks


def test_a_receipt_names_the_version_of_whatever_a_run_is_computed_with():
    told = receipt(Ranks.alone())
    for module in (curricle, numpy, torch, transformers):
        assert told[module.__name__] == module.__version__
