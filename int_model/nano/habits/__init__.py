"""The second bundled kit: models with habits of place, trained on what is plainly visible. See docs/nano.md."""
