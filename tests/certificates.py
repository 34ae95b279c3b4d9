"""Certificates for tests, made by the openssl of the machine."""

import subprocess


def authority(folder, name="authority"):
    """A new one; returns the stem of its two files."""
    return _new(folder / name, "-subj", f"/CN={name}")


def certificate(folder, name, signer, hosts=("127.0.0.1",)):
    """One of `signer`, for these addresses; returns the variables by which Ray is told of it."""
    names = "subjectAltName=" + ",".join(f"IP:{host}" for host in hosts)
    by = ("-CA", f"{signer}.crt", "-CAkey", f"{signer}.key", "-addext", names)
    own = _new(folder / name, "-subj", f"/CN={name}", *by)
    return {
        "RAY_USE_TLS": "1",
        "RAY_TLS_SERVER_CERT": f"{own}.crt",
        "RAY_TLS_SERVER_KEY": f"{own}.key",
        "RAY_TLS_CA_CERT": f"{signer}.crt",
    }


def _new(stem, *more):
    elliptic = ("-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256")
    made = ("-nodes", "-keyout", f"{stem}.key", "-out", f"{stem}.crt", "-days", "2")
    subprocess.run(["openssl", "req", "-x509", *elliptic, *made, *more], check=True, capture_output=True)
    return stem
