"""Tokens and what attackers make of them: whatever is not right in every respect is refused, in words, and nothing else
happens."""

import base64
import http.server
import json
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import jwt
import pytest
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat
from hypothesis import given, settings
from hypothesis import strategies as st

from duly.access.errors import AccessError, NotAuthenticated
from duly.access.evidence import Certificate, Evidence, UnixPeer
from duly.access.judge import Judge
from duly.access.key_set import REFRESH_SECONDS_MIN, KeySet, read_keys
from duly.access.listeners import Listener
from duly.access.policy import Policy, read_policy
from duly.access.tokens import id_of, new_token
from duly.core.types import StreamClass
from duly.rpc.guard import _bearer
from duly.streams.errors import CallError
from duly.streams.rights import ADMIN, USE, Right
from tests.access.credentials import EXPIRED, OTHER, RIGHT, jwks, key, policy, signed

HERE = Listener(admin=True)


@pytest.fixture
async def judge(tmp_path: Path) -> Judge:
    judge = Judge(read_policy(policy(tmp_path)))
    assert judge.keys is not None
    await judge.keys.start()
    return judge


async def who(judge: Judge, token: str = "", **more: Any) -> str:
    try:
        return (await judge.judge(Evidence("10.0.0.1", token, **more), HERE)).rights.principal
    except NotAuthenticated as error:
        return str(error).replace(token, "THE TOKEN") if token else str(error)


def forged(header: dict[str, Any], claims: dict[str, Any] | None = None, signature: bytes = b"") -> str:
    parts = (json.dumps(header).encode(), json.dumps(claims or good_claims()).encode(), signature)
    return ".".join(base64.urlsafe_b64encode(part).rstrip(b"=").decode() for part in parts)


def good_claims() -> dict[str, Any]:
    claims: dict[str, Any] = jwt.decode(signed(sub="admin", scope="duly.all"), options={"verify_signature": False})
    return claims


def with_shared_secret() -> str:
    """Signs with the public key as if it were a shared secret, which who checks by the header alone takes for good."""
    public = key("k1").public_key().public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo)
    head = forged({"alg": "HS256", "typ": "JWT", "kid": "k1"}).rpartition(".")[0]
    signature = jwt.algorithms.HMACAlgorithm(jwt.algorithms.HMACAlgorithm.SHA256)
    made = signature.sign(head.encode(), public)
    return f"{head}.{base64.urlsafe_b64encode(made).rstrip(b'=').decode()}"


NOT_TAKEN = "the token is signed by an algorithm that is not taken; there are RS256, ES256, EdDSA"
NONE_OF_IT = "the token is no JWT of the issuer"
ATTACKS = {
    "alg none": (forged({"alg": "none"}), NOT_TAKEN),
    "alg None, in capitals": (forged({"alg": "NONE", "kid": "k1"}), NOT_TAKEN),
    "the public key as a secret": (with_shared_secret(), NOT_TAKEN),
    "alg is a list": (forged({"alg": ["ES256"], "kid": "k1"}), NOT_TAKEN),
    "no signature": (forged({"alg": "ES256", "kid": "k1"}), NONE_OF_IT),
    "a signature of zeros": (forged({"alg": "ES256", "kid": "k1"}, None, bytes(64)), NONE_OF_IT),
    "another algorithm for the key": (forged({"alg": "RS256", "kid": "k1"}, None, bytes(256)), NONE_OF_IT),
    "a kid that is a path": (signed("k2", kid="../../etc/passwd"), "signed by a key that its issuer does not list"),
    "a kid that is a number": (forged({"alg": "ES256", "kid": 1}), NONE_OF_IT),
    "an expiry that is infinite": (signed(exp=float("inf")), NONE_OF_IT),
    "an expiry in words": (signed(exp="never"), NONE_OF_IT),
    "no expiry": (signed(exp=None), "the token lacks the claim exp"),
    "no subject": (signed(sub=None), "the token lacks the claim sub"),
    "of the future": (signed(nbf=time.time() + 86_400), "the token is not good yet; are the clocks right?"),
    "of another issuer": (signed(iss="https://issuer.test/"), "the token is of another issuer"),
    "for a longer audience": (signed(aud="duly2"), "the token is for another audience"),
    "longer than is read": ("e" * 9000, "the token is longer than 8192 characters"),
    "a critical extension": (
        jwt.encode(good_claims(), key("k1"), "ES256", headers={"kid": "k1", "crit": ["x"], "x": 1}),
        NONE_OF_IT,
    ),
    "a subject of nobody": (
        signed(sub="stranger"),
        "the token is good, but no principal of the policy has its subject and scopes",
    ),
    "scopes that are no texts": (signed(sub="admin", scp=[{"a": 1}, None]), "no principal of the policy"),
}


@pytest.mark.parametrize("attack", ATTACKS)
async def test_what_is_no_token_of_the_issuer_is_refused(judge: Judge, attack: str) -> None:
    token, words = ATTACKS[attack]
    assert words in await who(judge, token)


async def test_a_key_in_the_token_itself_is_not_believed(judge: Judge) -> None:
    own = json.loads(jwks("k2"))["keys"][0]
    for header in ({"jwk": own}, {"jku": "https://evil.test/jwks"}, {"x5u": "https://evil.test/x"}):
        claims = good_claims()
        token = jwt.encode(claims, key("k2"), "ES256", headers={"kid": "k1"} | header)
        assert await who(judge, token) == NONE_OF_IT


async def test_who_somebody_is(judge: Judge) -> None:
    assert await who(judge, RIGHT) == "right"
    assert await who(judge, OTHER) == "other"
    assert "has expired" in await who(judge, EXPIRED)
    assert await who(judge, signed()) == await who(judge, signed(exp=10**400)) == "camera"
    assert await who(judge, signed(sub="admin", scp=["duly.all"])) == "right"
    assert await who(judge, unix=UnixPeer(4242, 1, 1)) == "camera"
    assert "no credential was sent" in await who(judge, unix=UnixPeer(0, 0, 1))
    certificate = Certificate(names=("spiffe://vehicle/camera/a", "spiffe://vehicle/admin/b"))
    assert "no principal" in await who(judge, certificate=certificate), "a certificate has one SPIFFE id"
    # Who shows a token is judged by it, and not by what else would do.
    assert "not known here" in await who(judge, new_token(), unix=UnixPeer(4242, 1, 1))


async def test_a_verified_token_still_expires(tmp_path: Path) -> None:
    now_s = float(int(time.time()))
    judge = Judge(read_policy(policy(tmp_path)), lambda: now_s)
    assert judge.keys is not None
    await judge.keys.start()
    token = signed(exp=now_s + 100)
    assert await who(judge, token) == "camera"
    now_s += 100.5  # within the leeway
    assert await who(judge, token) == "camera"
    now_s += 1
    assert "has expired" in await who(judge, token)


async def test_what_an_address_alone_allows() -> None:
    judge = Judge(None)
    for admin, may in ((True, frozenset(Right)), (False, USE)):
        judged = await judge.judge(Evidence("10.0.0.1", "any token"), Listener(admin))
        assert (judged.rights.principal, judged.rights.proven, judged.rights.may) == ("10.0.0.1", False, may)
    certificate = Certificate(names=("cam.test",))
    judged = await judge.judge(Evidence("10.0.0.1", certificate=certificate), Listener(False))
    assert (judged.rights.principal, judged.rights.proven) == ("cam.test", True)


async def test_an_act_needs_the_right_and_the_place(tmp_path: Path) -> None:
    judge = Judge(read_policy(policy(tmp_path)))
    right = await judge.judge(Evidence("a", RIGHT), HERE)
    assert right.rights.may == frozenset(Right)
    assert right.rights.classes == frozenset(StreamClass)
    elsewhere = await judge.judge(Evidence("a", RIGHT), Listener(False))
    assert not elsewhere.rights.may & ADMIN


_TEXTS = st.one_of(st.text(max_size=40), st.text("aA1 ._-=\t\0é", max_size=20))


@given(st.sampled_from(["", "Bearer ", "bearer", "BEARER  ", "Basic "]), _TEXTS, st.booleans())
@settings(max_examples=200)
def test_any_header_is_a_token_or_refused(scheme: str, rest: str, as_bytes: bool) -> None:
    header = (scheme + rest).encode(errors="replace") if as_bytes else scheme + rest
    refused = ""
    token = "x"
    try:
        token = _bearer(header)
    except CallError as error:
        refused = str(error)
    assert refused in ("", "the authorization header should be: Bearer TOKEN")
    assert token
    assert token.isascii()
    assert " " not in token


_PARTS = st.one_of(st.text(max_size=30), st.sampled_from(signed().split(".")), st.text("aZ0_-", max_size=50))


@given(st.one_of(st.lists(_PARTS, max_size=5).map(".".join), st.just("duly_").flatmap(lambda p: _PARTS.map(p.__add__))))
@settings(max_examples=200)
def test_no_made_up_token_gets_in(fuzzed: Judge, token: str) -> None:
    if token in ("", signed()):
        return
    steps = fuzzed.judge(Evidence("a", token), HERE)
    with pytest.raises(NotAuthenticated):
        steps.send(None)  # it awaits nothing, as the keys are known and were just read


@pytest.fixture(scope="module")
def fuzzed(tmp_path_factory: pytest.TempPathFactory) -> Judge:
    folder = tmp_path_factory.mktemp("fuzzed")
    judge = Judge(read_policy(policy(folder)))
    assert judge.keys is not None
    judge.keys._take(read_keys(judge.keys.place))
    judge.keys._tried_at_s = time.monotonic()
    return judge


# ---- keys ----


class _Served(http.server.BaseHTTPRequestHandler):
    contents = ""
    redirect = ""
    asked = 0

    def do_GET(self) -> None:
        type(self).asked += 1
        self.send_response(302 if self.redirect else 200)
        if self.redirect:
            self.send_header("Location", self.redirect)
        self.end_headers()
        self.wfile.write(self.contents.encode())

    def log_message(self, *_: object) -> None:
        pass


@pytest.fixture
def url() -> Iterator[str]:
    with http.server.HTTPServer(("127.0.0.1", 0), _Served) as server:
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        _Served.redirect, _Served.asked = "", 0
        yield f"http://127.0.0.1:{server.server_port}/jwks"
        server.shutdown()
        thread.join()


async def test_keys_are_asked_for_again_when_the_issuer_turned_them_but_not_at_will(url: str) -> None:
    _Served.contents = jwks("k1")
    keys = KeySet(url)
    await keys.start()
    assert await keys.key("k1")
    _Served.contents = jwks("k2")
    for _ in range(20):
        assert await keys.key("k2") is None, f"they were asked for less than {REFRESH_SECONDS_MIN} s ago"
    assert _Served.asked == 1
    keys._tried_at_s -= REFRESH_SECONDS_MIN
    assert await keys.key("k2")
    assert await keys.key("k1") is None
    _Served.contents = "gone"
    await keys.refresh()
    assert await keys.key("k2"), "what cannot be read changes nothing"


def test_the_place_of_keys_is_no_other(url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("http_proxy", "http://127.0.0.1:1")
    monkeypatch.setenv("no_proxy", "")
    _Served.contents = jwks("k1")
    assert read_keys(url), "no proxy is asked"
    _Served.redirect = url + "2"
    with pytest.raises(AccessError, match="can't be read"):
        read_keys(url)
    with pytest.raises(AccessError, match="can't be read"):
        read_keys("http://127.0.0.1:1/jwks")


@pytest.mark.parametrize(
    "contents",
    [
        "",
        "[]",
        '{"keys": 3}',
        '{"keys": []}',
        '{"keys": [3, {"kty": "oct", "k": "c2VjcmV0", "kid": "k1"}, {"kty": "EC"}]}',
        '{"keys": ' + "[" * 100_000,
    ],
)
def test_a_file_that_has_no_public_key_is_refused(tmp_path: Path, contents: str) -> None:
    file = tmp_path / "jwks.json"
    file.write_text(contents, "utf-8")
    with pytest.raises(AccessError, match=r"should be a JWKS|no public key"):
        read_keys(str(file))


# ---- the policy file ----


def problems(tmp_path: Path, text: str) -> list[str]:
    file = tmp_path / "p.toml"
    file.write_text(text, "utf-8")
    with pytest.raises(AccessError) as refused:
        read_policy(file)
    return [line.removeprefix(f"{file}: ") for line in str(refused.value).splitlines()]


def test_every_problem_of_a_policy_is_named(tmp_path: Path) -> None:
    assert problems(tmp_path, "") == ["principal: there is none: without a [[principal]] nobody is let in"]
    assert problems(tmp_path, "[[principal]]\nname = 'a'") == [
        "principal[0] 'a': should have a credential: token, jwt, certificate or unix; or anyone = true"
    ]
    text = """
jwt = { issuer = "i", audience = "a", jwks = "http://far.test/keys", algorithms = ["HS256"] }
[[principal]]
name = "cam"
modles = ["x"]
classes = ["critical"]
may = ["unlod"]
quota = { frames_per_s = 3, lane_share_max = 2 }
certificate = [{ cn = "a", san = "b" }]
unix = [{}]
[[principal.token]]
id = "12345678"
sha256 = "12"
expires = 2030-01-01T00:00:00
"""
    told = problems(tmp_path, text)
    for place, words in {
        "jwt.algorithms[0]": "got 'HS256'",
        "jwt.jwks": "https:// URL, or an http:// URL of this machine",
        "principal[0] 'cam'.modles": "did you mean models?",
        "principal[0] 'cam'.classes[0]": "did you mean CRITICAL?",
        "principal[0] 'cam'.may[0]": "did you mean unload?",
        "principal[0] 'cam'.quota.frames_per_s": "did you mean frames_per_s_max?",
        "principal[0] 'cam'.quota.lane_share_max": "less than or equal to 1",
        "principal[0] 'cam'.certificate[0]": "should state one of spiffe, san and cn",
        "principal[0] 'cam'.unix[0]": "should state uid, gid, or both",
        "principal[0] 'cam'.token[0].sha256": "should be what `duly token new` or `duly token hash` prints, got '12'",
        "principal[0] 'cam'.token[0].expires": "should have its offset from UTC",
    }.items():
        assert [line for line in told if line.startswith(place + ":") and words in line], (place, told)
    alone = '[[principal.token]]\nid = "12345678"'
    assert problems(tmp_path, alone) == ["principal: should be a list, such as [[principal]] or [ ]"]
    twice = "[[principal]]\nname = 'a'\nanyone = true\n" * 2
    assert problems(tmp_path, twice) == ["principal: the name 'a' stands twice"]
    jwt_missing = "[[principal]]\nname = 'a'\njwt = [{ subject = 'x' }]"
    assert problems(tmp_path, jwt_missing) == ["jwt: is missing, but principals have jwt: [jwt] says who issues them"]


@pytest.mark.parametrize(
    ("pattern", "names", "fits"),
    [
        ({"spiffe": "spiffe://v/cam/*"}, ["spiffe://v/cam/1"], True),
        ({"spiffe": "spiffe://v/cam/*"}, ["spiffe://v/cam/1/2"], False),
        ({"spiffe": "spiffe://v/cam/*"}, ["spiffe://v2/cam/1"], False),
        ({"spiffe": "spiffe://v/*"}, [], False),
        ({"san": "*.cam.test"}, ["a.cam.test"], True),
        ({"san": "*.cam.test"}, ["spiffe://evil/.cam.test"], False),
        ({"san": "*.cam.test"}, ["cam.test"], False),
        ({"san": "*"}, ["https://x"], False),
    ],
)
def test_a_pattern_means_no_more_than_it_says(pattern: dict[str, str], names: list[str], fits: bool) -> None:
    table = {"principal": ({"name": "a", "certificate": (pattern,)},)}
    (principal,) = Policy.model_validate(table).principal
    assert principal.certificate[0].fits(Certificate(names=tuple(names))) is fits


def test_every_token_is_another_one() -> None:
    made = [new_token() for _ in range(200)]
    assert len({id_of(token) for token in made}) == 200
    assert not any(id_of(wrong) for wrong in ("", made[0] + "x", made[0][:-1], made[0].upper(), "duly_"))
