"""``/runs/ID/review``: a run's images by doubt or disagreement, what people think of them, and accepting by score."""
