"""Why a model decided."""
