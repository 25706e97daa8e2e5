"""What is no question's own: intervals, curves and spreads, from numbers to numbers."""
