"""What every layer of the package stands on: errors, types, registries, quantities, randomness, files, statistics."""
