"""The halt rule: stop a release that makes its devices go silent, and no other."""
