"""Names in client certificates are read as what they are, whatever a CA can be made to sign."""

import pytest
from cryptography import x509
from cryptography.x509 import DNSName, RFC822Name
from cryptography.x509 import UniformResourceIdentifier as Uri

from duly.access import dev_certificates
from duly.access.errors import AccessError
from duly.access.evidence import Certificate
from duly.access.policy import CertificateMatch
from duly.access.tls_files import certificate_of
from tests.access.credentials import LONG_AGO, issue

ADMIN = "spiffe://vehicle/admin"


def shown(monkeypatch: pytest.MonkeyPatch, *names: x509.GeneralName, common_name: str = "") -> Certificate:
    by_text = {str(number): name for number, name in enumerate(names)}
    monkeypatch.setattr(dev_certificates, "_name", by_text.__getitem__)
    return certificate_of(issue("ca", *by_text, common_name=common_name).certificate)


@pytest.mark.parametrize(
    "name",
    [
        DNSName("admin.test\0.evil.test"),
        DNSName(ADMIN),
        RFC822Name(ADMIN),
        Uri(f"{ADMIN}\0/guest"),
        DNSName("admin.test\n"),
    ],
)
def test_a_name_that_is_none_lets_nobody_in(monkeypatch: pytest.MonkeyPatch, name: x509.GeneralName) -> None:
    with pytest.raises(AccessError, match="a name that is none"):
        shown(monkeypatch, name)


def test_the_common_name_does_not_end_at_a_nul(monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(AccessError, match="a name that is none"):
        shown(monkeypatch, common_name="admin\0.evil.test")


def test_what_cannot_be_read_is_not_good_for_ever() -> None:
    with pytest.raises(AccessError, match="cannot be read"):
        certificate_of(b"-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n")


def test_names_are_of_their_kind(monkeypatch: pytest.MonkeyPatch) -> None:
    certificate = shown(monkeypatch, Uri(ADMIN), DNSName("front.cameras.test"), common_name="front")
    assert (certificate.spiffe_id, certificate.common_name, certificate.name) == (ADMIN, "front", ADMIN)
    assert certificate.expires_unix_s > LONG_AGO.timestamp()
    assert CertificateMatch(san="*.cameras.test").fits(certificate)
    assert not CertificateMatch(san="*.cameras.test").fits(shown(monkeypatch, RFC822Name("a@front.cameras.test")))
    assert not CertificateMatch(cn=ADMIN).fits(certificate)
    for two_or_empty in ((Uri(ADMIN), Uri("spiffe://vehicle/guest")), (Uri("spiffe://vehicle/camera/"),)):
        assert shown(monkeypatch, *two_or_empty).spiffe_id == ""
