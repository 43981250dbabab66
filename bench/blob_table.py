"""The blob bench's results as Markdown."""

from typing import Any, Final

BROKERS: Final = {"mosquitto": "Mosquitto", "nats": "nats-server"}


def table(result: dict[str, Any]) -> str:
    figures, ratios = result["figures"], result["ratios"]
    brokers = [kind for kind in BROKERS if kind in figures]
    lines = [
        "# Fetching a release from the broker's retained messages",
        "",
        f"{figures['devices']} devices, an image of {figures['image_bytes'] >> 20} MiB of random bytes, "
        f"{figures['pairs']} alternating rounds, medians, {figures['cores']} cores, load average "
        + ", ".join(f"{load:.1f}" for load in figures["load_average"])
        + ". Made by `make bench-blobs`; how each figure comes about is said in `bench/blobs.py`.",
        "",
        "| | " + " | ".join(BROKERS[kind] for kind in brokers) + " |",
        "|---" * (len(brokers) + 1) + "|",
    ]
    lines += [
        f"| {says} | " + " | ".join(cell(figures[kind], kind) for kind in brokers) + " |"
        for says, cell in (
            ("devices, MB/s", lambda one, _: f"{one['devices_mb_per_s']:,.0f}"),
            ("bare paho subscribers, MB/s", lambda one, _: f"{one['bare_mb_per_s']:,.0f}"),
            ("**devices by bare subscribers**", lambda _, kind: f"**{ratios[f'delivered_{kind}']:.2f}**"),
            (
                "devices, MB per processor second outside of hashing",
                lambda one, _: f"{one['devices_mb_per_cpu_s']:,.0f}",
            ),
            ("bare subscribers, MB per processor second", lambda one, _: f"{one['bare_mb_per_cpu_s']:,.0f}"),
            ("**the same by processor seconds**", lambda _, kind: f"**{ratios[f'delivered_per_cpu_{kind}']:.2f}**"),
            ("with hashing", lambda _, kind: f"{ratios[f'delivered_per_cpu_with_hashing_{kind}']:.2f}"),
            ("with the image read back, by time", lambda _, kind: f"{ratios[f'sealed_{kind}']:.2f}"),
            ("request/response chunk server, MB/s", lambda one, _: f"{one['chunk_server_mb_per_s']:,.0f}"),
            ("its processor seconds per GB", lambda one, _: f"{one['chunk_server_s_per_gb']:.1f}"),
        )
    ]
    lines += ["", "The Tidegate server's processor time while devices fetch:", ""]
    lines += ["| broker | devices | GB | server, s | idle over the same time, s | s per GB | ms per device |"]
    lines += ["|---|---|---|---|---|---|---|"]
    for kind in brokers:
        for one in figures[kind]["server"]:
            lines.append(
                f"| {BROKERS[kind]} | {one['devices']} | {one['delivered_gb']:.2f} | {one['server_s']:.3f} | "
                f"{one['idle_s']:.3f} | {one['s_per_gb']:.3f} | {one['ms_per_device']:.1f} |"
            )
    return "\n".join(lines) + "\n"
