"""Campaigns in virtual time: the halt rule and the engine over a recorded or a generated fleet."""
