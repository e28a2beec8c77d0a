"""One page of figures and statistics from results on disk."""
