"""RSA signatures as Alpine's packages carry them: verifying only, PKCS #1 v1.5 (RFC 8017 sections 8.2.2 and 9.2).

    >>> PublicKey.from_pem(pem, name="builder.rsa.pub").verifies(signature, data, "sha1")
    True

Python's standard library has no RSA, and verifying is one modular power and one comparison: the expected block is built
whole and compared whole, so there is no padding to parse and nothing to be lenient about.
"""

from __future__ import annotations

import base64
import binascii
import hashlib
import hmac
import re
from dataclasses import dataclass

from vpod.errors import VerificationFailed

MIN_BITS, MAX_BITS = 2048, 8192
MAX_PEM = 16 << 10  # bytes; that of a key of 8192 bits has 1.5 KiB
_RSA_ENCRYPTION = bytes.fromhex("06092a864886f70d0101010500")  # AlgorithmIdentifier's contents: the OID, NULL
_DIGEST_INFO = {
    "sha1": bytes.fromhex("3021300906052b0e03021a05000414"),
    "sha256": bytes.fromhex("3031300d060960864801650304020105000420"),
}


@dataclass(frozen=True)
class PublicKey:
    """An RSA public key."""

    modulus: int
    exponent: int

    @classmethod
    def from_pem(cls, pem: bytes, *, name: str) -> PublicKey:
        """A key in a `PUBLIC KEY` block (RFC 5280 SubjectPublicKeyInfo). `VerificationFailed` names `name`."""
        if len(pem) > MAX_PEM:
            raise VerificationFailed(f"{name}: {len(pem)} bytes are more than a public key has")
        match = re.search(rb"-----BEGIN PUBLIC KEY-----\s(.*?)-----END PUBLIC KEY-----", pem, re.DOTALL)
        try:
            der = base64.b64decode(match[1] if match else b"", validate=False)
            info, rest = _take(der, 0x30)
            algorithm, bits = _take(info, 0x30)
            key, rest_of_info = _take(bits, 0x03)
            numbers, rest_of_key = _take(key[1:], 0x30)
            modulus, last = _take(numbers, 0x02)
            exponent, end = _take(last, 0x02)
        except (binascii.Error, IndexError) as error:
            raise VerificationFailed(f"{name}: not a public key in PEM form") from error
        found = cls(int.from_bytes(modulus, "big"), int.from_bytes(exponent, "big"))
        if algorithm != _RSA_ENCRYPTION or key[:1] != b"\0" or rest or rest_of_info or rest_of_key or end:
            raise VerificationFailed(f"{name}: not an RSA public key")
        if not MIN_BITS <= found.modulus.bit_length() <= MAX_BITS or found.exponent < 3 or found.exponent >> 32:
            raise VerificationFailed(f"{name}: an RSA key of {found.modulus.bit_length()} bits; refused")
        return found

    def verifies(self, signature: bytes, data: bytes, algorithm: str) -> bool:
        """Whether `signature` was made over `data` with this key and `sha1` or `sha256`."""
        length = (self.modulus.bit_length() + 7) // 8
        number = int.from_bytes(signature, "big")
        if len(signature) != length or number >= self.modulus:
            return False
        digest = _DIGEST_INFO[algorithm] + hashlib.new(algorithm, data).digest()
        expected = b"\0\1" + b"\xff" * (length - len(digest) - 3) + b"\0" + digest
        return hmac.compare_digest(pow(number, self.exponent, self.modulus).to_bytes(length, "big"), expected)


def _take(data: bytes, tag: int) -> tuple[bytes, bytes]:
    """The contents of a DER value that must have `tag`, and what follows it. `IndexError` for anything else."""
    if data[0] != tag:
        raise IndexError
    length, start = data[1], 2
    if length & 0x80:
        start += length & 0x7F
        length = int.from_bytes(data[2:start], "big")
        if not 3 <= start <= 6:
            raise IndexError
    if start + length > len(data):
        raise IndexError
    return data[start : start + length], data[start + length :]
