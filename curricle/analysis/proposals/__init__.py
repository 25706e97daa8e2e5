"""What to run next: the questions that a study leaves open, and the runs that would answer them."""
