"""What every worker imports, for the process that they are forked from, which this makes deaf to SIGINT and SIGTERM: it
lives and ends with the driver. No work is done here, and nothing imported that leaves a thread running (pyarrow does).
"""

import signal

import transformers.models.llama.modeling_llama  # noqa: F401

import curricle.evaluation.scoring
import curricle.training.loop  # noqa: F401

for number in (signal.SIGINT, signal.SIGTERM):
    signal.signal(number, signal.SIG_IGN)
signal.pthread_sigmask(signal.SIG_UNBLOCK, (signal.SIGINT, signal.SIGTERM))
