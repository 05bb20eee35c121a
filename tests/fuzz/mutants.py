"""Mutants of valid inputs: of bytes, of texts, of documents, and of the records of a protocol buffer or an archive."""

import io
import json
import random
import re
import struct
import zipfile
from collections.abc import Callable
from typing import Any

Mutate = Callable[[bytes, random.Random], bytes]

# bytes that readers of lengths, depths and texts stumble over
ODD_BYTES = (b"\0", b"\xff", b"\xff\xff\xff\x7f", b"\xff" * 8, b"\x80" * 11, b"[" * 2000, b"9" * 5000, b"\n", b"\r\n")

# texts that terminals, files and tables stumble over
ODD_TEXTS = (
    *("", " ", "\0", "\x1b]0;PWNED\x07", "\x1b[31m", "\u202e", "\u2066", "\x85", "\u2028", "\ud800", "\ufeff", "a\nb"),
    *("../../../etc/passwd", "/dev/zero", "=1+1", "|", "`", "%", "{}", "<b>", "x" * 5000, "é", "9" * 5000, "NaN"),
)

# values as JSON has them, and as it does not
ODD_JSON = (
    *("0", "-1", "1", "3", "-0.0", "0.5", "true", "null", "[]", "{}", "[0]", '{"a": 1}', "NaN", "-Infinity"),
    *(
        "1e400",
        "-1e400",
        "1e308",
        "-1e308",
        "5e-324",
        "1e15",
        "1e16",
        str(2**53),
        str(2**63),
        str(-(2**63)),
        str(2**64),
    ),
    *(
        "9" * 5000,
        "-" + "9" * 5000,
        "0." + "9" * 5000,
        "[" * 10_000 + "]" * 10_000,
        '{"a":' * 10_000 + "1" + "}" * 10_000,
    ),
    *(json.dumps(text) for text in ODD_TEXTS),
    *('"\\ud800"', '"\ud800"', '"\x1b"', '"\\q"', '"'),
)

# values as TOML has them, and as it does not
ODD_TOML = (
    *("0", "-1", "1", "0.5", "true", "nan", "inf", "-inf", "1e400", "1e308", str(2**63), str(2**64)),
    *("9" * 5000, "0x" + "f" * 5000, "1979-05-27T07:32:00Z", "07:32:00", "[]", "{}", "[0]", "{ a = 1 }"),
    *("[" * 10_000 + "]" * 10_000, "{a=" * 10_000 + "1" + "}" * 10_000, "'''a\nb'''", '"' + "x" * 5000 + '"'),
    *('""', '"\\u0000"', '"\\u001b]0;PWNED\\u0007"', '"\\u202e"', '"\\u0085"', '"\\ud800"', '"../../../etc/passwd"'),
    *('"9999999999%"', '"1e400s"', '"*"', '"["', '"**/*"', '"timm:x"', '"a.onnx"'),
)


# --- bytes ------------------------------------------------------------------------------------------------------------


def of_bytes(data: bytes, draw: random.Random) -> bytes:
    """Change one to four places: flip, cut, remove, insert, replace, repeat or swap; the ends are chosen more often."""
    for _ in range(draw.randint(1, 4)):
        place = _place(len(data), draw)
        before, behind = data[:place], data[place:]
        value = draw.choice((draw.choice(ODD_BYTES), draw.randbytes(draw.randint(1, 8))))
        length = draw.choice((1, 4, 64, 1000))
        match draw.choice(("flip", "flip", "bit", "cut", "remove", "insert", "replace", "repeat", "swap")):
            case "flip":
                data = before + draw.randbytes(1) + behind[1:]
            case "bit":
                data = before + bytes(byte ^ 1 << draw.randrange(8) for byte in behind[:1]) + behind[1:]
            case "cut":
                data = before
            case "remove":
                data = before + behind[length:]
            case "insert":
                data = before + value + behind
            case "replace":
                data = before + value + behind[len(value) :]
            case "repeat":
                data = before + behind[:length] * 2 + behind[length:]
            case _:
                at = draw.randrange(len(behind) + 1)
                data = before + behind[at : at + length] + behind[length:at] + behind[:length] + behind[at + length :]
    return data


def _place(length: int, draw: random.Random) -> int:
    """A place in a file: headers and directories, which say most, are at its ends."""
    match draw.randrange(3):
        case 0:
            return draw.randint(0, min(length, 1000))
        case 1:
            return draw.randint(max(0, length - 3000), length)
        case _:
            return draw.randint(0, length)


# --- texts ------------------------------------------------------------------------------------------------------------


def of_text(data: bytes, draw: random.Random) -> bytes:
    """Change one to three lines: words replaced, characters inserted, lines repeated, removed and swapped."""
    if draw.random() < 0.2:
        return of_bytes(data, draw)
    lines = data.decode().split("\n")
    for _ in range(draw.randint(1, 3)):
        at = draw.randrange(len(lines))
        match draw.choice(("word", "insert", "repeat", "remove", "swap", "line")):
            case "word":
                words = re.split(r"(\W+)", lines[at])
                words[draw.randrange(len(words))] = draw.choice(ODD_TEXTS)
                lines[at] = "".join(words)
            case "insert":
                place = draw.randint(0, len(lines[at]))
                lines[at] = lines[at][:place] + draw.choice(ODD_TEXTS) + lines[at][place:]
            case "repeat":
                lines.insert(at, lines[draw.randrange(len(lines))])
            case "remove":
                del lines[at]
                lines = lines or [""]
            case "swap":
                to = draw.randrange(len(lines))
                lines[at], lines[to] = lines[to], lines[at]
            case _:
                lines[at] = draw.choice((" " * 40_000, "," * 20_000, *ODD_TEXTS))
    return "\n".join(lines).encode(errors="surrogatepass")


# --- documents --------------------------------------------------------------------------------------------------------


def of_json(data: bytes, draw: random.Random) -> bytes:
    """Change one to three values of a document: another value, another type, removed, renamed, repeated or swapped."""
    if draw.random() < 0.1:
        return of_bytes(data, draw)
    document = [json.loads(data)]  # so that the outermost value has a place too
    raw: dict[str, str] = {}  # marker -> what stands in its place, which may be no JSON
    for number in range(draw.choice((1, 1, 1, 2, 3))):
        container, key = _value(document, draw)
        marker = f"@{number}@"
        kind = draw.choice(("alike", "alike", "alike", "alike", *KINDS))
        if kind == "other":
            elsewhere, name = _value(document, draw)
            container[key] = json.loads(json.dumps(elsewhere[name]))
        elif kind == "remove" and container is not document:
            del container[key]
        elif kind == "rename" and isinstance(container, dict):
            container[marker] = container.pop(key)
            raw[json.dumps(marker)] = json.dumps(draw.choice((f"{key}x", *ODD_TEXTS)))
        elif kind == "twice" and isinstance(container, dict):
            container[marker] = container[key]
            raw[json.dumps(marker)] = json.dumps(key)
        elif kind in {"repeat", "twice"} and isinstance(container, list) and container is not document:
            container[key:key] = [container[key]] * draw.choice((1, 2, 150))
        elif kind == "swap" and isinstance(container, list | dict):
            to = draw.choice(_keys(container))
            container[key], container[to] = container[to], container[key]
        elif kind == "alike" and isinstance(container[key], str | int | float):
            container[key] = _alike(container[key], draw)
        elif kind == "nest":
            container[key] = draw.choice(([container[key]], {"a": container[key]}))
        else:
            container[key] = marker
            raw[json.dumps(marker)] = draw.choice(ODD_JSON)
    text = json.dumps(document[0], ensure_ascii=False)
    for marker, value in raw.items():
        text = text.replace(marker, value)
    return text.encode(errors="surrogatepass")


KINDS = ("replace", "replace", "replace", "other", "remove", "rename", "repeat", "twice", "swap", "nest")


def _alike(value: Any, draw: random.Random) -> Any:
    """Another value of the same type, which readers may take."""
    match value:
        case bool():
            return not value
        case str():
            odd = draw.choice([text for text in ODD_TEXTS if text != "\ud800"])
            return draw.choice((odd, value + odd, odd + value, value * 2, value.upper()))
        case int():
            return draw.choice((0, 1, -value, value + 1, value * 1000, 2**31, 2**53, 2**63 - 1, 10**15 - 1))
        case _:
            return draw.choice((0.0, -value, 1.0, value * 1e6, value / 1e6, 1e308, 5e-324, 1e-9, 1e15))


def _keys(container: Any) -> list[Any]:
    return list(container) if isinstance(container, dict) else list(range(len(container)))


def _value(document: list[Any], draw: random.Random) -> tuple[Any, Any]:
    """A container and a key of it, at any depth: long lists are chosen as rarely as short ones."""
    container, key = document, 0
    while (inner := container[key]) and isinstance(inner, list | dict) and draw.random() < 0.8:
        container, key = inner, draw.choice(_keys(inner))
    return container, key


def of_json_lines(data: bytes, draw: random.Random) -> bytes:
    """Change one to three lines of a file of documents: as documents, or removed, repeated, swapped and torn."""
    if draw.random() < 0.1:
        return of_bytes(data, draw)
    lines = data.splitlines()
    for _ in range(draw.randint(1, 3)):
        at, to = draw.randrange(len(lines)), draw.randrange(len(lines))
        match draw.choice(("change", "change", "change", "change", "remove", "repeat", "swap", "tear")):
            case "change":
                try:
                    lines[at] = of_json(lines[at], draw)
                except (ValueError, RecursionError):  # changed before
                    lines[at] = of_bytes(lines[at], draw)
            case "remove" if len(lines) > 1:
                del lines[at]
            case "repeat":
                lines.insert(at, lines[to])
            case "swap":
                lines[at], lines[to] = lines[to], lines[at]
            case _:
                lines[at] = lines[at][: draw.randint(0, len(lines[at]))]
    return b"\n".join(lines) + b"\n" * (draw.random() < 0.9)


def of_toml(data: bytes, draw: random.Random) -> bytes:
    """Change one to three lines of a configuration: values, keys and headings, and lines as `of_text` does."""
    if draw.random() < 0.2:
        return of_text(data, draw)
    lines = data.decode().split("\n")
    for _ in range(draw.randint(1, 3)):
        at = draw.choice([number for number, line in enumerate(lines) if line.strip()])
        key, equals, value = lines[at].partition("=")
        match draw.choice(("value", "value", "value", "part", "key", "heading", "repeat", "remove", "swap")):
            case "value" if equals:
                lines[at] = f"{key}= {draw.choice(ODD_TOML)}"
            case "part":
                words = re.split(r"([\w.%]+|\"[^\"]*\")", value or lines[at])
                words[draw.randrange(len(words))] = draw.choice(ODD_TOML)
                lines[at] = f"{key}{equals}" * bool(value) + "".join(words)
            case "key" if equals:
                lines[at] = f"{draw.choice(('x', key.strip() + 'x', *ODD_TOML))} ={value}"
            case "heading":
                kind = draw.choice(("model", "device", "study", "sweep", "method", "gate", "paths", "x"))
                lines.insert(
                    at, f"[{draw.choice((kind, f'{kind}.x', f'{kind}.{draw.choice(ODD_TOML)}', f'[{kind}]'))}]"
                )
            case "repeat":
                lines.insert(at, draw.choice(lines))
            case "remove" if len(lines) > 2:
                del lines[at]
                lines.append("#")
            case _:
                to = draw.randrange(len(lines))
                lines[at], lines[to] = lines[to], lines[at]
    return "\n".join(lines).encode(errors="surrogatepass")


# --- protocol buffers and archives ------------------------------------------------------------------------------------

Field = list[Any]  # of a message: number, wire type, and its value: a number, bytes, or a list of fields


def _varint(data: bytes, at: int) -> tuple[int, int]:
    value = shift = 0
    while True:
        byte = data[at]
        value |= (byte & 127) << shift
        at, shift = at + 1, shift + 7
        if byte < 128:
            return value, at


def _encoded(value: int) -> bytes:
    data = bytearray()
    value &= 2**70 - 1
    while value > 127:
        data.append(value & 127 | 128)
        value >>= 7
    return bytes([*data, value])


def _fields(data: bytes) -> list[Field]:
    """The fields of a message, parts within parts; raises for what is no message."""
    fields: list[Field] = []
    at = 0
    while at < len(data):
        key, at = _varint(data, at)
        number, kind = key >> 3, key & 7
        if not 0 < number < 10_000 or kind not in {0, 1, 2, 5}:
            raise ValueError("no message")
        if kind == 0:
            value, at = _varint(data, at)
        else:
            length = {1: 8, 5: 4}.get(kind, 0)
            if kind == 2:
                length, at = _varint(data, at)
            if at + length > len(data):
                raise ValueError("no message")
            value, at = data[at : at + length], at + length
        fields.append([number, kind, value])
    return fields


def _message(fields: list[Field]) -> bytes:
    data = bytearray()
    for number, kind, value in fields:
        data += _encoded(number << 3 | kind)
        if kind == 0:
            data += _encoded(value)
        else:
            content = _message(value) if isinstance(value, list) else value
            data += _encoded(len(content)) * (kind == 2) + content
    return bytes(data)


def of_protobuf(data: bytes, draw: random.Random) -> bytes:
    """Change one to four fields of a message, at any depth; the lengths around them stay right."""
    if draw.random() < 0.2:
        return of_bytes(data, draw)
    message = _fields(data)
    for _ in range(draw.randint(1, 4)):
        parts = message
        while True:
            at = draw.randrange(len(parts)) if parts else None
            if at is None or draw.random() < 0.1:
                break
            inner = parts[at][2]
            if parts[at][1] == 2 and isinstance(inner, bytes) and len(inner) > 1:
                try:
                    inner = parts[at][2] = _fields(inner)
                except (ValueError, IndexError):
                    break
            if not isinstance(inner, list):
                break
            parts = inner
        if at is not None:
            _change(parts, at, draw)
    return _message(message)


def _change(parts: list[Field], at: int, draw: random.Random) -> None:
    field = parts[at]
    match draw.choice(("value", "value", "value", "remove", "repeat", "swap", "number")):
        case "value" if field[1] == 0:
            field[2] = draw.choice(
                (0, 1, 2, 7, 11, 16, 255, 2**31 - 1, 2**31, 2**32, 2**53, 2**63 - 1, 2**63, 2**64 - 1)
            )
        case "value" if isinstance(field[2], bytes) and field[1] == 2:
            texts = [text.encode(errors="surrogatepass") for text in ODD_TEXTS]
            field[2] = draw.choice((of_bytes(field[2], draw), *texts, b"\xff\xfe"))
        case "value" if isinstance(field[2], bytes):
            field[2] = draw.choice((draw.randbytes(len(field[2])), b"\xff" * len(field[2]), bytes(len(field[2]))))
        case "remove":
            del parts[at]
        case "repeat":
            parts[at:at] = [field] * draw.choice((1, 2, 100))
        case "swap":
            to = draw.randrange(len(parts))
            parts[at], parts[to] = parts[to], parts[at]
        case _:
            field[0] = draw.randint(1, 30)


def of_archive(data: bytes, draw: random.Random) -> bytes:
    """Change an entry of a zip archive, whose sums and directory stay right; at times the archive itself."""
    if draw.random() < 0.4:
        return of_bytes(data, draw)
    with zipfile.ZipFile(io.BytesIO(data)) as archive:
        entries = [(info.filename, archive.read(info)) for info in archive.infolist()]
    small = [number for number, (_, content) in enumerate(entries) if len(content) < 100_000]
    for _ in range(draw.randint(1, 2)):
        at = draw.choice(small[:2]) if draw.random() < 0.7 else draw.randrange(len(entries))
        name, content = entries[at]
        match draw.choice(("content", "content", "content", "name", "remove", "swap")):
            case "content":
                entries[at] = name, of_bytes(content, draw)
            case "name":
                entries[at] = draw.choice((f"{name}x", "../x", "constants.pkl", entries[-1][0])), content
            case "remove" if len(entries) > 1:
                del entries[at]
                small = [number for number, (_, content) in enumerate(entries) if len(content) < 100_000] or [0]
            case _:
                to = draw.randrange(len(entries))
                entries[at], entries[to] = (name, entries[to][1]), (entries[to][0], content)
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", draw.choice((zipfile.ZIP_STORED,) * 9 + (zipfile.ZIP_DEFLATED,))) as archive:
        for name, content in entries:
            archive.writestr(zipfile.ZipInfo(name), content)
    return buffer.getvalue()


def of_safetensors(data: bytes, draw: random.Random) -> bytes:
    """Change the header of a safetensors file as a document, whose length stays right; at times the file itself."""
    if draw.random() < 0.3:
        return of_bytes(data, draw)
    (length,) = struct.unpack_from("<Q", data)
    header = of_json(data[8 : 8 + length], draw)
    return struct.pack("<Q", len(header)) + header + data[8 + length :]
