"""Adds to the base image of Dockerfile and apptainer.def the digest that its registry gives for the tag now.

    python3 containers/pin_base.py Dockerfile apptainer.def

Where the registry can't be reached, nothing is changed and the exit status is 1: no digest is ever invented.
"""

from __future__ import annotations

import json
import re
import sys
import urllib.error
import urllib.parse
import urllib.request
from pathlib import Path

TIMEOUT_S = 30
# Both files name the base as BASE=registry/name:tag, with or without an older digest. Apptainer takes
# no name with a tag and a digest: there the digest replaces the tag, which is kept in a line before it.
LINE = re.compile(
    r"^(?:    # tag: (?P<kept>\S+)\n)?(?P<head>(?:ARG +|    )BASE=)"
    r"(?P<name>[^\s:@]+(?::[0-9]+/[^\s:@]+)?)(?::(?P<tag>[^\s@]+))?(?:@\S+)?$",
    re.MULTILINE,
)
MANIFESTS = (
    "application/vnd.oci.image.index.v1+json, application/vnd.docker.distribution.manifest.list.v2+json, "
    "application/vnd.oci.image.manifest.v1+json, application/vnd.docker.distribution.manifest.v2+json"
)


def main(paths: list[str]) -> int:
    """Pin every file, or none."""
    texts = {Path(path): Path(path).read_text() for path in paths}
    pinned = {}
    try:
        for path, text in texts.items():
            pinned[path] = pin(text, instead_of_tag=path.suffix == ".def")
    except (OSError, ValueError) as error:
        print(f"pin-base: {error}; nothing was changed", file=sys.stderr)
        return 1
    for path, text in pinned.items():
        path.write_text(text)
        print(f"{path}: {next(line.strip() for line in text.splitlines() if 'BASE=' in line)}")
    return 0


def pin(text: str, *, instead_of_tag: bool) -> str:
    """Return a file with its base image pinned; raises OSError, ValueError."""
    found = LINE.search(text)
    if found is None:
        raise ValueError("there is no line BASE=registry/name:tag")
    tag = found["tag"] or found["kept"]
    if tag is None:
        raise ValueError(f"{found[0].strip()}: the tag is not known any more")
    digest = digest_of(found["name"], tag)
    if instead_of_tag:
        line = f"    # tag: {tag}\n{found['head']}{found['name']}@{digest}"
    else:
        line = f"{found['head']}{found['name']}:{tag}@{digest}"
    return text[: found.start()] + line + text[found.end() :]


def digest_of(name: str, tag: str) -> str:
    """Ask the registry which digest a tag has now."""
    registry, _, repository = name.partition("/")
    host = "registry-1.docker.io" if registry == "docker.io" else registry
    scheme = "http" if host.startswith(("127.", "localhost")) else "https"
    url = f"{scheme}://{host}/v2/{repository}/manifests/{tag}"
    request = urllib.request.Request(url, method="HEAD", headers={"Accept": MANIFESTS})
    try:
        answer = urllib.request.urlopen(request, timeout=TIMEOUT_S)
    except urllib.error.HTTPError as error:
        if error.code != 401:
            raise
        request.add_header("Authorization", f"Bearer {token(error.headers['WWW-Authenticate'] or '')}")
        answer = urllib.request.urlopen(request, timeout=TIMEOUT_S)
    with answer:
        digest = answer.headers["Docker-Content-Digest"] or ""
    if not re.fullmatch(r"sha256:[0-9a-f]{64}", digest):
        raise ValueError(f"{url}: the registry gives no digest")
    return digest


def token(challenge: str) -> str:
    """Get the token that a registry wants from whoever may only read."""
    words = dict(re.findall(r'(\w+)="([^"]*)"', challenge))
    if "realm" not in words:
        raise ValueError(f"the registry wants something unknown: {challenge}")
    query = urllib.parse.urlencode(
        {key: value for key, value in words.items() if key in ("service", "scope")}
    )
    with urllib.request.urlopen(f"{words['realm']}?{query}", timeout=TIMEOUT_S) as answer:
        found = json.load(answer)
    return str(found.get("token") or found["access_token"])


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
