"""The policies against the table of who may do what, as the documentation has it."""

import itertools

import pytest

from plenum.api.authorise import CLUSTER, VISIBLE, Policies, Target, account, tenant
from plenum.api.identity import Principal
from plenum.api.routes import ROUTES
from plenum.control.events import Grant

POLICIES = Policies()

VIEW = {"tenants:read", "jobs:read", "events:read", "decisions:read", "usage:read", "keys:read"}
WORK = {"jobs:write", "logs:read", "keys:write"}
POLICY = {"experiments:write"}
PEOPLE = {"users:read", "users:write", "tokens:read", "tokens:write"}
OWN = {"users:read", "tokens:read", "tokens:write", "self:read"}
CLUSTERS = {
    "tenants:write", "fleets:read", "fleets:write", "nodes:read", "nodes:write", "metrics:read", "log:backup", "log:verify",
    "agents:admit",
}  # fmt: skip
AGENTS = {"agents:join", "agents:sync"}
GATEWAYS = {"gateways:speak"}
ACTIONS = VIEW | WORK | POLICY | PEOPLE | OWN | CLUSTERS | AGENTS | GATEWAYS | {"users:grant"}


def user(*grants: tuple[str, str], name: str = "ada") -> Principal:
    return Principal(kind="user", name=name, grants=tuple(Grant(role, whose) for role, whose in grants))


def allowed(principal: Principal, target: Target) -> set[str]:
    return {action for action in ACTIONS if POLICIES.allows(principal, action, target)}


@pytest.mark.parametrize(
    ("role", "may"),
    [("viewer", VIEW), ("member", VIEW | WORK), ("admin", VIEW | WORK | POLICY)],
    ids=["viewer", "member", "admin"],
)
def test_roles_reach_as_far_as_their_tenant(role: str, may: set[str]) -> None:
    somebody = user((role, "own"))
    assert allowed(somebody, tenant("own")) == may
    assert allowed(somebody, tenant("other")) == set()
    assert allowed(somebody, CLUSTER) == set()
    assert allowed(somebody, VISIBLE) == VIEW | PEOPLE


def test_an_operator_does_everything_but_speak_for_agents() -> None:
    operator = user(("operator", "*"))
    assert allowed(operator, tenant("any")) == VIEW | WORK | POLICY
    assert allowed(operator, CLUSTER) >= CLUSTERS
    assert PEOPLE | {"users:grant"} <= allowed(operator, account("any", frozenset()))
    assert allowed(operator, Target(kind="Agent", name="any")) == set()
    assert allowed(operator, Target(kind="Gateway", name="any")) == set()


@pytest.mark.parametrize(
    ("role", "tenants", "may"),
    [
        ("admin", {"own"}, PEOPLE | {"users:grant"}),
        ("admin", {"own", "other"}, set()),
        ("admin", {"other"}, set()),
        ("admin", {"*"}, set()),
        ("admin", set(), set()),
        ("member", {"own"}, set()),
        ("viewer", {"own"}, set()),
    ],
)
def test_only_admins_look_after_people_and_only_after_theirs(role: str, tenants: set[str], may: set[str]) -> None:
    assert allowed(user((role, "own")), account("bob", frozenset(tenants))) == may


def test_everybody_looks_after_themselves() -> None:
    assert allowed(user(name="ada"), account("ada", frozenset({"own"}))) == OWN
    assert allowed(user(name="ada"), account("bob", frozenset({"own"}))) == set()


def test_tokens_of_machines_reach_one_agent() -> None:
    agent = Principal(kind="agent", name="host-1")
    join, bound = Principal(kind="join", name="x"), Principal(kind="join", name="x", bound_to="host-1")
    one, other = Target(kind="Agent", name="host-1"), Target(kind="Agent", name="host-2")
    assert [allowed(agent, one), allowed(agent, other)] == [AGENTS, set()]
    assert [allowed(join, one), allowed(join, other)] == [{"agents:join"}, {"agents:join"}]
    assert [allowed(bound, one), allowed(bound, other)] == [{"agents:join"}, set()]
    for machine, target in itertools.product(
        (agent, join, bound), (CLUSTER, VISIBLE, tenant("own"), account("host-1", frozenset()))
    ):
        assert allowed(machine, target) == set()


def test_a_gateway_speaks_for_itself_alone() -> None:
    gateway = Principal(kind="gateway", name="edge-1", bound_to="edge-1")
    assert allowed(gateway, Target(kind="Gateway", name="edge-1")) == GATEWAYS
    for target in (Target(kind="Gateway", name="edge-2"), Target(kind="Agent", name="edge-1"), CLUSTER, VISIBLE):
        assert allowed(gateway, target) == set()
    assert allowed(gateway, tenant("edge-1")) == set()
    agent = Principal(kind="agent", name="edge-1", bound_to="edge-1")
    assert allowed(agent, Target(kind="Gateway", name="edge-1")) == set()


def test_a_tenant_that_is_named_as_somebody_is_not_theirs() -> None:
    assert allowed(user(name="ada"), tenant("ada")) == set()
    assert allowed(user(("viewer", "own"), name="own"), account("own", frozenset({"own"}))) == OWN


def test_every_route_s_action_is_one_that_the_policies_know() -> None:
    assert {route.action for route in ROUTES} <= ACTIONS
    operator = user(("operator", "*"))
    assert not POLICIES.allows(operator, "no:such", CLUSTER)


def test_policies_that_do_not_fit_their_schema_are_not_started_with() -> None:
    with pytest.raises(ValueError, match="schema"):
        Policies("permit (principal is Plenum::User, action, resource) when { principal.opperator };")
    with pytest.raises(ValueError, match=r".+"):
        Policies("permit everything")
