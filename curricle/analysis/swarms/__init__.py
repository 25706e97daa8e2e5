"""Behind the question of the mixture: swarms of runs, the laws fitted to them, and the best point of a simplex."""
