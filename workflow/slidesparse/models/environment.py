"""Environment variables that huggingface_hub reads. One that it cannot use is named, without a value that is secret."""

import os
import ssl
from functools import cache
from urllib.request import getproxies_environment

from slidesparse.errors import DownloadError

TIMES = ("HF_HUB_ETAG_TIMEOUT", "HF_HUB_DOWNLOAD_TIMEOUT")
OFFLINE = ("HF_HUB_OFFLINE", "TRANSFORMERS_OFFLINE")


def offline_by():
    """The variable that forbids the network; huggingface_hub reads the second only if the first is empty."""
    return next((name for name in OFFLINE if os.environ.get(name)), OFFLINE[0])


@cache
def check():
    """Raise DownloadError for a variable that cannot be used, before huggingface_hub is imported or asked."""
    for name in TIMES:
        text = os.environ.get(name, "0")
        if not text.strip().isascii() or not text.strip().isdecimal():
            raise DownloadError(f"{name} is {text!r:.80}, but must be a whole number of seconds: correct or unset it")
    from huggingface_hub import constants

    if constants.HF_HUB_OFFLINE:
        return
    _check_certificates()
    _check_token()
    _check_proxies()


def _check_certificates():
    path = os.environ.get("SSL_CERT_FILE")
    if not path:
        return
    try:
        ssl.create_default_context(cafile=path)
    except ssl.SSLError:
        raise DownloadError(f"SSL_CERT_FILE is {path!r}, which holds no certificate: correct or unset it") from None
    except OSError as error:
        cause = error.strerror or "no such file"
        raise DownloadError(f"SSL_CERT_FILE is {path!r}, which cannot be read ({cause}): correct or unset it") from None


def _check_token():
    from huggingface_hub import constants
    from huggingface_hub.utils import get_token

    where = next((name for name in ("HF_TOKEN", "HUGGING_FACE_HUB_TOKEN") if os.environ.get(name)), None)
    try:
        token = get_token() or ""
    except ValueError:  # a file that is no text
        token = "\0"
    except Exception:  # it may be asked for, and the request that needs it says what is wrong
        return
    if not token.isascii() or not token.isprintable() or " " in token:
        raise DownloadError(
            f"the token of {where or constants.HF_TOKEN_PATH} has a character that no token has, such as a space or a"
            " letter with an accent: copy it again"
        )


def _check_proxies():
    from huggingface_hub.utils import get_session

    try:
        get_session()
    except ImportError:
        named = _proxies(lambda address: address.startswith("socks"))
        raise DownloadError(
            f"{named} names a SOCKS proxy, which needs the package socksio: install it, or unset {named}"
        ) from None
    except Exception:  # its HTTP library has several errors for an address
        if not getproxies_environment():
            raise
        named = _proxies(lambda address: True)
        raise DownloadError(
            f"{named} names a proxy that is not of a kind that can be used, or is no address: correct or unset it"
        ) from None


def _proxies(wanted):
    """Names of the variables with a `wanted` proxy, or of all."""
    known = {f"{scheme}_proxy" for scheme in getproxies_environment()}
    names = {name for name, address in os.environ.items() if name.lower() in known and wanted(address)}
    return " and ".join(sorted(names)) or "a variable *_proxy"
