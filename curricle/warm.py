"""What every worker imports, for the process that they are forked from. It only imports: no work, no device, and
nothing that leaves a thread running (pyarrow does)."""

import signal

import transformers.models.llama.modeling_llama  # noqa: F401

import curricle.evaluation.scoring
import curricle.training.loop  # noqa: F401

# It lives and ends with the driver; a signal to the whole job (Slurm's, systemd's) is the driver's to answer.
signal.signal(signal.SIGTERM, signal.SIG_IGN)
