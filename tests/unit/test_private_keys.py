"""Who in the server can reach a private key: read off the imports of every module, wherever in it they stand."""

import ast
import functools
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

import server

PACKAGE = Path(server.__file__).parent

DOORS: Mapping[str, frozenset[str]] = {
    "firmware_store.signers": frozenset(),
    "firmware_store.private_files": frozenset(),
    "firmware_store.keys": frozenset({"SigningKey", "load_key", "save_key", "key_is_encrypted"}),
    "firmware_store.cose": frozenset({"sign1"}),
    "firmware_store.documents": frozenset({"seal", "seal_payload", "add_signature"}),
    "firmware_store.suit": frozenset({"sign_envelope", "sign_digest"}),
    "firmware_store.root": frozenset({"init_dev_keys", "key_file"}),
    "cryptography.hazmat.primitives.serialization": frozenset(),
    "cryptography.hazmat.primitives.asymmetric": frozenset(),
    "nacl": frozenset(),
    "ed25519": frozenset(),
}
"""What opens, makes or uses a private key: whole modules, or some of their names."""

ALLOWED: Mapping[str, str] = {
    "server.services.keyring": "the directive and the session key, and nothing but signing with them",
    "server.services.device_ca": "the authority for device certificates, which is no role of the trust root",
    "server.services.lease": "the node's name, which is no key, in a file that is written once",
    "server.protocol.renewal": "the words of a device, signed by whoever is handed in: the device, with its own key",
    "server.services.audit": "the signed head of the audit, in a file that is replaced whole",
    "server.services.backup": "a backup on the disk when it is said to be; keys are never in it",
    "server.services.csr": "public keys in certificate requests",
    "server.embedded": "the broker's own account, which opens the broker and signs nothing that a device believes",
    "server.cli": "commands of people, where the keys of people are; no part of the server that runs",
}


@functools.cache
def modules() -> Sequence[tuple[str, ast.Module]]:
    return [
        (
            ".".join(["server", *path.relative_to(PACKAGE).with_suffix("").parts]).removesuffix(".__init__"),
            ast.parse(path.read_text(encoding="utf-8")),
        )
        for path in sorted(PACKAGE.rglob("*.py"))
    ]


def imports(tree: ast.Module) -> Iterator[tuple[str, str | None]]:
    """Yield each import as a module and the name taken from it, None for the module itself."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from ((alias.name, None) for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.module is not None:
            assert node.level == 0, "imports are absolute"
            yield from ((node.module, alias.name) for alias in node.names)


def opens_a_door(module: str, name: str | None) -> bool:
    full = module if name is None else f"{module}.{name}"
    for door, names in DOORS.items():
        if full == door or full.startswith(f"{door}."):
            taken = full.removeprefix(door).lstrip(".")
            if not names or not taken or taken == "*" or taken in names:
                return True
    return False


def keepers() -> dict[str, Sequence[str]]:
    found: dict[str, Sequence[str]] = {}
    for name, tree in modules():
        opened = sorted({f"{module}.{taken}" for module, taken in imports(tree) if opens_a_door(module, taken)})
        if opened:
            found[name] = opened
    return found


def is_allowed(module: str) -> bool:
    return any(module == name or module.startswith(f"{name}.") for name in ALLOWED)


def test_nothing_else_in_the_server_can_reach_a_private_key() -> None:
    strangers = {name: opened for name, opened in keepers().items() if not is_allowed(name)}

    assert strangers == {}


def test_whoever_is_allowed_makes_use_of_it() -> None:
    used = {name for name in ALLOWED if any(one == name or one.startswith(f"{name}.") for one in keepers())}

    assert used == set(ALLOWED)


def test_the_server_that_runs_imports_no_command() -> None:
    """The commands may open keys; so nothing that runs may borrow them."""
    borrowers = {
        name
        for name, tree in modules()
        if not name.startswith("server.cli") and name != "server.__main__"
        for module, _ in imports(tree)
        if module == "server.cli" or module.startswith("server.cli.")
    }

    assert borrowers == set()


def test_the_look_at_imports_finds_what_it_is_for() -> None:
    hidden = ast.parse(
        "def f():\n    from firmware_store.keys import PublicKey, load_key\n    import firmware_store.signers"
    )

    assert [entry for entry in imports(hidden) if opens_a_door(*entry)] == [
        ("firmware_store.keys", "load_key"),
        ("firmware_store.signers", None),
    ]
    assert opens_a_door("firmware_store", "keys")
    assert not opens_a_door("firmware_store.keys", "Kid")
