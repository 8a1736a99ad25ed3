"""Regression of dynamical systems: what a network predicts of a system's states, attacked and explained.

A task of its own beside classification (ADR 23): its outputs are numbers and its goals are true states. It has the
attacks, threats and explanation mode of everything else; success is a criterion, an error above a stated tolerance.
"""
