#!/usr/bin/env python3
"""Writes the fuzz targets' first inputs to DIR/TARGET/: what the test vectors hold, each behind the
bytes of choices that its target reads. See the targets for these."""
import json
import pathlib
import struct
import sys

ROOT = pathlib.Path(__file__).resolve().parent.parent
CLIENT = json.loads((ROOT / "tests/vectors/client.json").read_text())
MIDDLE = json.loads((ROOT / "tests/vectors/middle.json").read_text())
OUT = pathlib.Path(sys.argv[1])


def put(target, name, *parts):
    folder = OUT / target
    folder.mkdir(parents=True, exist_ok=True)
    data = b"".join(bytes.fromhex(p) if isinstance(p, str) else bytes(p) for p in parts)
    (folder / name).write_bytes(data)


def texts(value):
    """Every string in a tree of JSON."""
    if isinstance(value, str):
        yield value
    elif isinstance(value, dict):
        for inner in value.values():
            yield from texts(inner)
    elif isinstance(value, list):
        for inner in value:
            yield from texts(inner)


hellos = CLIENT["faketls_hello"] + CLIENT["faketls_hello_checks"]
for case in hellos:
    record = case["record"]
    # As it is, and signed anew with lengths put right.
    put("hello", case["name"], [7], record)
    put("hello", case["name"] + "-signed", [31], record)
    put("handshake", case["name"], [0, 0, 2], record)
    length = struct.pack("<H", len(record) // 2)
    put("handshake", case["name"] + "-signed", [0, 1, 2], length, record)

records = CLIENT["faketls_records"]
for name in ("client_first_flight", "split_header_flight", "server_first_record"):
    put("records", name, [2, 100, 0], records[name])
for alert in CLIENT["tls_alerts"].values():
    put("records", "alert-" + alert, [1, 0, 0], records["client_first_flight"], alert)



def framing(case):
    names = ("abridged", "intermediate", "padded")
    return next(n for n, name in enumerate(names) if case["transport"].startswith(name))


for case in CLIENT["obfuscated2_client"]:
    header, name = case["wire_header"], case["name"]
    put("obfuscated", name, [framing(case), 2, 255, 255], header, case["uplink_frame_plain"])
    put("handshake", "plain-" + name, [0, 0, 2], header, case["uplink_frame_wire"])
for index, case in enumerate(CLIENT["frames"] + CLIENT["frames_invalid"]):
    choices = [framing(case), 3, 255, 255]
    put("obfuscated", f"frame-{index}", choices, bytes(64), case["wire"])
# One of each kind of newcomer that the target makes itself.
for kind in range(5):
    for shape in (0, 40):
        choices = [0, kind + shape, 5, 2, 0, 40, 20]
        put("handshake", f"made-{kind}-{shape}", choices, bytes(range(60)))

for case in CLIENT["proxy_protocol"] + CLIENT["proxy_protocol_invalid"]:
    put("proxy_header", case["name"].replace(" ", "-").replace("/", "-"), case["wire"])

for index, case in enumerate(CLIENT["socks"]):
    replies = "".join(texts(case["from_server"]))
    for flags in (0, 1, 2, 0x18, 0x19, 0x1A):
        name = b"x" * 17 * (flags >> 4)
        put("socks", f"{index}-{flags}", [flags, 3], name, replies)

for flags in range(4):
    put("me_opening", f"good-{flags}", [flags, 3, 255, 255])
    # No damage; an answer, an ack, and something unknown with a pad behind it.
    frames = ([0, 9], bytes(36), [1, 3], bytes(12), [0x84, 2], bytes(8))
    put("me_frames", f"good-{flags}", [flags, 5, 255, 255, 0, 3], *frames)
for index, text in enumerate(texts(MIDDLE)):
    is_hex = len(text) % 2 == 0 and all(c in "0123456789abcdef" for c in text)
    if is_hex and 32 <= len(text) <= 2000:
        put("me_frames", f"vector-{index}", [0, 3], text)
    elif "proxy_for" in text:
        put("texts", f"map-{index}", [0], text.encode())

for case in CLIENT["links"]:
    for key in ("secret_text", "tg", "https"):
        if case.get(key):
            put("texts", f"{case['kind'].replace(' ', '-')}-{key}", [3], case[key].encode())
put("texts", "map", [0], b"default 2;\nproxy_for 1 149.154.175.50:8888;\nproxy_for -1 [::1]:80;\n")
put("texts", "stun", [1], "0101000c2112a442", bytes(12), "002000080001a147e112a643")
put("texts", "secret", [2], bytes(range(128)))

for case in CLIENT["faketls_server"] + CLIENT["faketls_server_invalid"]:
    put("site_answer", case["name"].replace(" ", "-"), case["flight"])
for method in range(6):
    choices = [method + 16, 3, 255, 255, 0, 2, 20, 0]
    put("shadowsocks", f"good-{method}", choices, bytes(20), [30, 0], bytes(30))
for index, text in enumerate(texts(CLIENT["shadowsocks"])):
    if text.startswith("ss://"):
        put("texts", f"ss-{index}", [3], text.encode())
