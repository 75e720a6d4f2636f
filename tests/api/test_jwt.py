"""JSON Web Tokens of an issuer that is trusted: what is taken, and what is not."""

import json
import time
from collections.abc import Iterator
from typing import Any

import jwt
import pytest
from cryptography.hazmat.primitives.asymmetric import ec, ed25519, rsa
from jwt.algorithms import ECAlgorithm, OKPAlgorithm, RSAAlgorithm
from tests.api.lab import Lab, problem

from plenum.api import ApiSettings, ClaimGrant, JwtIssuer, Rate
from plenum.api.jwt_issuers import KEYS_S, REFRESH_S, fetch_keys
from plenum.model.errors import FieldError

ISSUER, AUDIENCE = "https://login.example.org/realm", "plenum"

RSA = rsa.generate_private_key(65537, 2048)
OTHER_RSA = rsa.generate_private_key(65537, 2048)
EC = ec.generate_private_key(ec.SECP256R1())
ED = ed25519.Ed25519PrivateKey.generate()


class Keys:
    """Where the issuer publishes its keys; counts how often it is asked."""

    def __init__(self) -> None:
        self.asked = 0
        self.keys = [self.published(RSA, "rsa"), self.published(EC, "ec"), self.published(ED, "ed")]

    @staticmethod
    def published(key: Any, kid: str) -> dict[str, Any]:
        algorithm = {rsa.RSAPrivateKey: RSAAlgorithm, ec.EllipticCurvePrivateKey: ECAlgorithm}
        kind = next((a for base, a in algorithm.items() if isinstance(key, base)), OKPAlgorithm)
        return {**json.loads(kind.to_jwk(key.public_key())), "kid": kid, "use": "sig"}

    async def fetch(self, source: str) -> bytes:
        self.asked += 1
        return json.dumps({"keys": self.keys}).encode()


@pytest.fixture(scope="module")
def keys() -> Keys:
    return Keys()


@pytest.fixture(scope="module")
def trusting(keys: Keys) -> Iterator[Lab]:
    grants = (
        ClaimGrant(claim="groups", value="ml", role="member", tenant="research"),
        ClaimGrant(claim="realm.roles", value="boss", role="operator", tenant="*"),
    )
    issuer = JwtIssuer(issuer=ISSUER, audience=AUDIENCE, jwks="https://login.example.org/keys", grants=grants)
    settings = ApiSettings(jwt=(issuer,), audit_window_s=0.01, failure_rate=Rate(per_s=1e6, burst=10**6))
    lab = Lab(settings, simulate=False, fetch=keys.fetch)
    yield lab
    lab.close()


def claims(**more: Any) -> dict[str, Any]:
    told = {"iss": ISSUER, "aud": AUDIENCE, "sub": "zoe", "exp": time.time() + 600, "groups": ["ml"]} | more
    return {key: value for key, value in told.items() if value is not None}


def signed(key: Any = RSA, algorithm: str = "RS256", kid: str | None = "rsa", **more: Any) -> str:
    return jwt.encode(claims(**more), key, algorithm, {"kid": kid} if kid else None)


@pytest.mark.parametrize(("key", "algorithm", "kid"), [(RSA, "RS256", "rsa"), (EC, "ES256", "ec"), (ED, "EdDSA", "ed")])
def test_a_good_token_is_taken(trusting: Lab, key: Any, algorithm: str, kid: str) -> None:
    me = trusting.get("/whoami", signed(key, algorithm, kid))
    assert me["name"] == "login.example.org:zoe"
    assert me["grants"] == [{"role": "member", "tenant": "research"}]


def test_nested_claims_grant_too(trusting: Lab) -> None:
    assert trusting.get("/whoami", signed(realm={"roles": ["boss"]}))["operator"] is True
    assert trusting.get("/whoami", signed(groups="ml"))["grants"]
    assert trusting.get("/whoami", signed(groups=["none", 3, None], realm=["boss"]))["grants"] == []


def test_what_such_a_person_does_bears_their_name(trusting: Lab) -> None:
    answer = trusting.ask("PUT", "/tenants/research/tasks/by-jwt", signed(), json={"spec": {}})
    assert answer.json()["metadata"]["createdBy"] == "user/login.example.org:zoe"


def odd_issuer() -> str:
    """Sign what PyJWT would not."""
    return jwt.PyJWS().encode(json.dumps(claims(iss=["x"])).encode(), RSA, "RS256", {"kid": "rsa"})


HEADER = jwt.utils.base64url_encode(b'{"alg":"none"}').decode()


@pytest.mark.parametrize(
    "token",
    [
        pytest.param(lambda: signed(OTHER_RSA), id="another key"),
        pytest.param(lambda: signed(kid="unknown"), id="unknown kid"),
        pytest.param(lambda: signed(kid=None), id="no kid among several"),
        pytest.param(lambda: signed(iss="https://evil.example.org"), id="another issuer"),
        pytest.param(lambda: odd_issuer(), id="issuer of another type"),
        pytest.param(lambda: signed(aud="another"), id="another audience"),
        pytest.param(lambda: signed(aud=None), id="no audience"),
        pytest.param(lambda: signed(exp=None), id="no expiry"),
        pytest.param(lambda: signed(exp="tomorrow"), id="expiry that is no time"),
        pytest.param(lambda: signed(nbf=time.time() + 600), id="not yet valid"),
        pytest.param(lambda: signed(sub=None), id="nobody"),
        pytest.param(lambda: signed(sub=""), id="empty name"),
        pytest.param(lambda: signed(sub="a\nb"), id="line break in the name"),
        pytest.param(lambda: signed(sub="x" * 300), id="long name"),
        pytest.param(lambda: jwt.encode(claims(), "s" * 64, "HS256", {"kid": "rsa"}), id="shared secret"),
        pytest.param(lambda: f"{HEADER}.{signed().split('.')[1]}.", id="not signed"),
        pytest.param(lambda: signed()[:-4] + "AAAA", id="changed signature"),
        pytest.param(lambda: "a.b.c", id="junk"),
        pytest.param(lambda: "..", id="nothing"),
        pytest.param(lambda: signed(pad="x" * 20_000), id="too long"),
        pytest.param(lambda: signed(EC, "ES256", "rsa"), id="key of another kind"),
    ],
)  # fmt: skip
def test_a_token_that_does_not_verify_is_refused(trusting: Lab, token: Any) -> None:
    answer = trusting.ask("GET", "/whoami", token())
    assert (answer.status_code, problem(answer)["code"]) == (401, "auth.invalid")


def test_an_expired_one_is_told_so_and_a_little_late_is_good(trusting: Lab) -> None:
    assert trusting.ask("GET", "/whoami", signed(exp=time.time() - 5)).status_code == 200
    assert problem(trusting.ask("GET", "/whoami", signed(exp=time.time() - 60)))["code"] == "auth.expired"


def test_a_token_remembered_still_expires(trusting: Lab) -> None:
    token = signed(exp=time.time() + 100)
    assert trusting.ask("GET", "/whoami", token).status_code == 200
    trusting.clock.ahead_s = 200.0
    answer = trusting.ask("GET", "/whoami", token)
    trusting.clock.ahead_s = 0.0
    assert problem(answer)["code"] == "auth.expired"


def test_nobody_of_another_issuer_passes_for_a_user_here(trusting: Lab) -> None:
    assert trusting.get("/whoami", signed(sub="root"))["operator"] is False
    with pytest.raises(FieldError, match="prefix"):
        JwtIssuer(issuer="x", audience="x", jwks="keys.json", prefix="plain")


def test_unknown_keys_are_looked_for_once_and_not_again_at_once(keys: Keys) -> None:
    issuer = JwtIssuer(issuer=ISSUER, audience=AUDIENCE, jwks="keys")
    lab = Lab(ApiSettings(jwt=(issuer,), failure_rate=Rate(per_s=1e6, burst=10**6)), simulate=False, fetch=keys.fetch)
    try:
        before = keys.asked
        new = ed25519.Ed25519PrivateKey.generate()
        token = signed(new, "EdDSA", "new")
        for _ in range(5):
            assert lab.ask("GET", "/whoami", token).status_code == 401
        assert keys.asked == before + 1
        keys.keys.append(keys.published(new, "new"))
        assert lab.ask("GET", "/whoami", token).status_code == 401
        lab.clock.monotonic_ahead_s = REFRESH_S + 1
        assert lab.ask("GET", "/whoami", token).status_code == 200
        keys.keys.pop()
        assert keys.asked == before + 2
    finally:
        lab.close()


def test_a_key_that_is_withdrawn_is_good_for_an_hour_at_most(keys: Keys) -> None:
    issuer = JwtIssuer(issuer=ISSUER, audience=AUDIENCE, jwks="keys")
    lab = Lab(ApiSettings(jwt=(issuer,)), simulate=False, fetch=keys.fetch)
    try:
        token = signed(exp=time.time() + 86_400)
        assert lab.ask("GET", "/whoami", token).status_code == 200
        withdrawn = keys.keys.pop(0)
        assert lab.ask("GET", "/whoami", token).status_code == 200
        lab.clock.monotonic_ahead_s = KEYS_S + 1
        lab.wait(lambda: lab.service.leading)
        assert lab.ask("GET", "/whoami", token).status_code == 401
        keys.keys.insert(0, withdrawn)
    finally:
        lab.close()


def test_keys_come_from_files_too(tmp_path: Any) -> None:
    path = tmp_path / "keys.json"
    path.write_text(json.dumps({"keys": [Keys.published(RSA, "rsa")]}))
    issuer = JwtIssuer(issuer=ISSUER, audience=AUDIENCE, jwks=str(path))
    lab = Lab(ApiSettings(jwt=(issuer,)), simulate=False)
    try:
        assert lab.ask("GET", "/whoami", signed(kid=None)).status_code == 200
        path.write_text("{")
        assert lab.ask("GET", "/whoami", signed(kid="other")).status_code == 401
        with pytest.raises(OSError, match="such file"):
            lab.run(fetch_keys(str(tmp_path / "absent")))
    finally:
        lab.close()


@pytest.mark.parametrize(
    "wrong", [{"jwks": "http://login.example.org/keys"}, {"algorithms": ("HS256",)}, {"issuer": ""}, {"audience": ""}]
)
def test_settings_that_would_be_unsafe_are_refused(wrong: dict[str, Any]) -> None:
    with pytest.raises(FieldError):
        JwtIssuer(**{"issuer": ISSUER, "audience": AUDIENCE, "jwks": "keys.json", **wrong})


def test_signatures_are_not_checked_for_an_address_that_only_fails(keys: Keys) -> None:
    issuer = JwtIssuer(issuer=ISSUER, audience=AUDIENCE, jwks="keys")
    lab = Lab(ApiSettings(jwt=(issuer,), failure_rate=Rate(per_s=0.001, burst=3)), simulate=False, fetch=keys.fetch)
    try:
        codes = [lab.ask("GET", "/whoami", signed(OTHER_RSA)).status_code for _ in range(5)]
        assert codes == [401, 401, 401, 429, 429]
        assert lab.ask("GET", "/whoami", "root").status_code == 200, "a good token of this control plane passes"
    finally:
        lab.close()
