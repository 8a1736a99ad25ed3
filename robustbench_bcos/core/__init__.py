"""What every layer of the package stands on: errors, types, registries, radii, randomness, statistics."""
