"""The bundled miniature world: scene generator, seeded training recipes and checkpoints in ordinary formats."""
