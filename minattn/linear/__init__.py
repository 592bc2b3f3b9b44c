"""Attention as a recurrence with a state of constant size: one update, and the mechanisms that are settings of it."""
