"""The halt rule: stop a release that makes its devices go silent, and no other."""

from server.domain.halt.policy import HaltPolicy
from server.domain.halt.rule import HaltRule
from server.domain.halt.view import Call, Moment, Population, Verdict

__all__ = ["Call", "HaltPolicy", "HaltRule", "Moment", "Population", "Verdict"]
