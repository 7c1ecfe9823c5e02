"""Hostile input for every topic, drawn from a seed: for the flow tests and for chaos runs."""
