"""What a scope lets through: limits only ever take away, and a token within another's sees no more."""

from hypothesis import given
from hypothesis import strategies as st

from server.domain.identity import Cohort, Region
from server.domain.scope import EVERYTHING, Scope

regions = st.sampled_from([Region(name) for name in ("eu", "us", "asia")])
cohorts = st.sampled_from([Cohort(name) for name in ("main", "lab")])
scopes = st.builds(
    Scope,
    st.none() | st.frozensets(regions, min_size=1),
    st.none() | st.frozensets(cohorts, min_size=1),
)


@given(scopes, scopes, regions, cohorts)
def test_whoever_is_within_another_sees_nothing_that_the_other_does_not(
    inner: Scope, outer: Scope, region: Region, cohort: Cohort
) -> None:
    if inner.is_within(outer) and inner.has(region, cohort):
        assert outer.has(region, cohort)


@given(scopes, scopes)
def test_what_is_not_within_sees_something_more(inner: Scope, outer: Scope) -> None:
    if not inner.is_within(outer):
        everywhere = [
            (Region(region), Cohort(cohort))
            for region in ("eu", "us", "asia", "elsewhere")
            for cohort in ("main", "lab", "other")
        ]
        assert any(inner.has(*place) and not outer.has(*place) for place in everywhere)


@given(scopes, st.lists(regions, min_size=1), cohorts)
def test_all_of_a_campaign_is_seen_in_each_of_its_regions(scope: Scope, over: list[Region], cohort: Cohort) -> None:
    seen = [scope.has(region, cohort) for region in over]

    assert scope.has_all(over, cohort) == all(seen)
    assert scope.has_some(over, cohort) == any(seen)


@given(scopes, scopes)
def test_limits_of_the_maker_hold_where_there_are_no_others(own: Scope, makers: Scope) -> None:
    limited = own.limited_to(makers)

    assert limited.is_within(Scope(own.regions or makers.regions, own.cohorts or makers.cohorts))
    assert EVERYTHING.limited_to(makers) == makers
    assert limited.is_within(own)


@given(scopes)
def test_everything_has_no_limits_and_all_are_within_it(scope: Scope) -> None:
    assert scope.is_within(EVERYTHING)
    assert EVERYTHING.is_within(scope) == (not scope.is_limited)
