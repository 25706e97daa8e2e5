"""Curricle: a laboratory for pre-training strategy."""
