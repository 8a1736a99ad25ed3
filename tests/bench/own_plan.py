"""The former names, until every test uses the new ones."""

from tests.bench.own_request import SHAPE, TwoSides, distance_to_the_plane
from tests.bench.own_request import own_request as own_plan

__all__ = ["SHAPE", "TwoSides", "distance_to_the_plane", "own_plan"]
