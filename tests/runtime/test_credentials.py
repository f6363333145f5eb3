"""Credentials: what is written, and every way in which a directory of them can be wrong."""

from __future__ import annotations

import os
import shutil
import stat
import time

import pytest
from cryptography import x509

from comet_jax.runtime import credentials
from comet_jax.runtime.errors import CredentialsError


@pytest.fixture
def directory(tmp_path):
    credentials.create(tmp_path / "keys")
    return tmp_path / "keys"


def test_every_role_gets_a_private_key_and_pins_the_others(directory):
    for role in credentials.ROLES:
        assert stat.S_IMODE((directory / f"{role}.key").stat().st_mode) == 0o600
        loaded = credentials.load(directory, role)
        assert set(loaded.pinned) == set(credentials.ROLES) - {role}
        assert all(loaded.role_of(loaded.certificate_of(other)) == other for other in loaded.pinned)
    assert stat.S_IMODE(directory.stat().st_mode) == 0o700


def test_both_ends_see_the_same_fingerprint(directory):
    one, other = credentials.load(directory, "party0"), credentials.load(directory, "party1")
    assert one.fingerprint("party1") == other.fingerprint("party1") != one.fingerprint("party0")


def test_a_certificate_is_nobodys_authority(directory):
    certificate = x509.load_pem_x509_certificate((directory / "client.crt").read_bytes())
    assert not certificate.extensions.get_extension_for_class(x509.BasicConstraints).value.ca


def test_nothing_is_overwritten(directory):
    before = (directory / "party0.key").read_bytes()
    with pytest.raises(CredentialsError, match=r"party0\.key exists"):
        credentials.create(directory, roles=("new", "party0"))
    assert (directory / "party0.key").read_bytes() == before
    assert not (directory / "new.key").exists()


def test_a_role_that_cannot_be_a_file_name_is_refused(tmp_path):
    with pytest.raises(CredentialsError, match="not a name"):
        credentials.create(tmp_path, roles=("../party0",))


def test_a_readable_key_is_refused(directory):
    (directory / "party0.key").chmod(0o640)
    with pytest.raises(CredentialsError, match="chmod 600"):
        credentials.load(directory, "party0")


def test_a_missing_key_says_how_to_make_one(directory):
    os.unlink(directory / "party0.key")
    with pytest.raises(CredentialsError, match=r"party0\.key is missing: make it with"):
        credentials.load(directory, "party0")


def test_a_mixed_up_pair_is_refused(directory):
    shutil.copy(directory / "party1.key", directory / "party0.key")
    with pytest.raises(CredentialsError, match="do not belong together"):
        credentials.load(directory, "party0")


def test_a_certificate_under_another_roles_name_is_refused(directory):
    shutil.copy(directory / "party1.crt", directory / "client.crt")
    with pytest.raises(CredentialsError, match="not of 'client'"):
        credentials.load(directory, "party0")


@pytest.mark.parametrize("name", ["party0.key", "party1.crt"])
def test_garbage_is_refused(directory, name):
    (directory / name).write_text("garbage")
    with pytest.raises(CredentialsError, match=r"is not an? "):
        credentials.load(directory, "party0")


def test_an_expired_certificate_is_refused(directory):
    for name in ("client.key", "client.crt"):
        os.unlink(directory / name)
    credentials.create(directory, roles=("client",), days=0)
    time.sleep(1.1)  # Certificates count whole seconds.
    with pytest.raises(CredentialsError, match="expired on"):
        credentials.load(directory, "party0")


def test_an_unknown_role_says_whose_file_is_needed(directory):
    os.unlink(directory / "client.crt")
    with pytest.raises(CredentialsError, match=r"copy client\.crt there"):
        credentials.load(directory, "party0").certificate_of("client")
