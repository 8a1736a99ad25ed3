"""How an adversary searches: balls, losses, PGD and the noise it must beat. Attacks know a callable, never a model."""
