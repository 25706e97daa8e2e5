"""The questions that can be put to a study's rows: which rows go to which estimator, with which arguments."""
