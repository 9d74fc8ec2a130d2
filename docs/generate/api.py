"""docs/reference/api.md, from the comments and declarations of proto/hookstream/v1."""

import tempfile
from pathlib import Path

from google.protobuf import descriptor_pb2
from grpc_tools import protoc

PACKAGE = "hookstream.v1"

HEAD = """# Interface

Look up a call, a message, a field or an enum of `hookstream.v1`. This page is made from
[`proto/hookstream/v1`](../../proto/hookstream/v1), which is the specification; how to use it is in the
[guide](../README.md).

Besides these services the gRPC port serves `grpc.health.v1.Health` and `grpc.reflection.v1.ServerReflection`.

"""

TYPES = {
    getattr(descriptor_pb2.FieldDescriptorProto, name): name.removeprefix("TYPE_").lower()
    for name in ("TYPE_STRING", "TYPE_BYTES", "TYPE_BOOL", "TYPE_DOUBLE", "TYPE_INT32", "TYPE_UINT32", "TYPE_UINT64")
}

FILES = ("hookstream_service", "access_service", "event", "filter", "endpoint", "subscription", "payload")


class Source:
    """The comments of one file, by the path of what they stand before."""

    def __init__(self, file: descriptor_pb2.FileDescriptorProto) -> None:
        self.comments = {tuple(one.path): one.leading_comments for one in file.source_code_info.location}

    def comment(self, path: tuple[int, ...]) -> str:
        lines = [line.removeprefix(" ") for line in self.comments.get(path, "").rstrip().splitlines()]
        return "\n".join(lines)


def page(root: Path) -> str:
    files = {file.name.rsplit("/", 1)[-1].removesuffix(".proto"): file for file in descriptors(root)}
    assert set(files) == set(FILES), f"FILES does not name what is there: {sorted(files)}"
    text, contents = "", ""
    for file in (files[name] for name in FILES):
        source = Source(file)
        for place, service in enumerate(file.service):
            contents += entry(service.name)
            text += service_text(service, (6, place), source)
        contents += entry(f"{file.name}")
        text += f"## {file.name}\n\n"
        for place, message in enumerate(file.message_type):
            contents += entry(message.name, 1)
            text += message_text(message, (4, place), source)
        for place, enum in enumerate(file.enum_type):
            contents += entry(enum.name, 1)
            text += enum_text(enum, (5, place), source)
    return HEAD + contents + "\n" + text.rstrip() + "\n"


def descriptors(root: Path) -> list[descriptor_pb2.FileDescriptorProto]:
    proto = root / "proto"
    names = [str(path.relative_to(proto)) for path in sorted(proto.glob("hookstream/v1/*.proto"))]
    with tempfile.NamedTemporaryFile() as out:
        include = Path(protoc.__file__).parent / "_proto"
        arguments = ["", f"-I{proto}", f"-I{include}", f"--descriptor_set_out={out.name}", "--include_source_info"]
        assert protoc.main([*arguments, *names]) == 0
        return list(descriptor_pb2.FileDescriptorSet.FromString(Path(out.name).read_bytes()).file)


def anchor(name: str) -> str:
    return "".join(one for one in name.lower().replace(" ", "-") if one.isalnum() or one in "-_")


def entry(name: str, depth: int = 0) -> str:
    return f"{'  ' * depth}- [`{name}`](#{anchor(name)})\n"


def service_text(service, path: tuple[int, ...], source: Source) -> str:
    text = f"## {service.name}\n\n{block(source.comment(path))}\n"
    for place, method in enumerate(service.method):
        ask, answer = (link(name) for name in (method.input_type, method.output_type))
        text += f"### {service.name}.{method.name}\n\n"
        text += f"{ask} → {'a stream of ' if method.server_streaming else ''}{answer}\n\n"
        text += f"{block(source.comment((*path, 2, place)))}\n"
    return text


def message_text(message, path: tuple[int, ...], source: Source, outer: str = "") -> str:
    name = f"{outer}{message.name}"
    text = f"### {name}\n\n{block(source.comment(path))}\n"
    maps = {f"{one.name}": one for one in message.nested_type if one.options.map_entry}
    if message.field:
        text += "| field | type | number | |\n|---|---|---:|---|\n"
    for place, field in enumerate(message.field):
        meaning = row(source.comment((*path, 2, place)))
        if field.HasField("oneof_index"):
            meaning = f"One of `{message.oneof_decl[field.oneof_index].name}`. {meaning}"
        text += f"| `{field.name}` | {field_type(field, maps)} | {field.number} | {meaning} |\n"
    if message.field:
        text += "\n"
    for place, one in enumerate(message.oneof_decl):
        text += f"`{one.name}`: {row(source.comment((*path, 8, place)))}\n\n"
    for place, nested in enumerate(message.nested_type):
        if nested.name not in maps:
            text += message_text(nested, (*path, 3, place), source, f"{name}.")
    return text


def enum_text(enum, path: tuple[int, ...], source: Source) -> str:
    text = f"### {enum.name}\n\n{block(source.comment(path))}\n"
    text += "| value | number | |\n|---|---:|---|\n"
    for place, value in enumerate(enum.value):
        text += f"| `{value.name}` | {value.number} | {row(source.comment((*path, 2, place)))} |\n"
    return text + "\n"


def field_type(field, maps) -> str:
    nested = maps.get(field.type_name.rsplit(".", 1)[-1])
    if nested:
        key, value = (field_type(one, {}) for one in nested.field)
        return f"map of {key} to {value}"
    name = TYPES.get(field.type) or link(field.type_name)
    return f"repeated {name}" if field.label == field.LABEL_REPEATED else name


def link(full_name: str) -> str:
    name = full_name.removeprefix(".")
    if not name.startswith(PACKAGE):
        return f"`{name}`"
    name = name.removeprefix(f"{PACKAGE}.")
    return f"[`{name}`](#{anchor(name)})"


def block(comment: str) -> str:
    """A comment as paragraphs. What is indented in it stays as it is, as an example."""
    out = ""
    was_example = False
    for line in comment.splitlines():
        is_example = line.startswith("  ")
        # What a call may answer and what it needs stand in lines of their own.
        if line.startswith(("Codes", "Scope:")) and not out.endswith("\n\n"):
            out += "\n"
        if is_example and not was_example and not out.endswith("\n\n"):
            out += "\n"
        out += ("    " + line.strip("\n")[2:] if is_example else escaped(line)) + "\n"
        was_example = is_example
    return out


def row(comment: str) -> str:
    """A comment as one cell. Its examples stand in lines of their own."""
    out, was_example = "", False
    for line in filter(str.strip, comment.splitlines()):
        is_example = line.startswith("  ")
        out += ("<br>" if is_example or was_example else " ") + escaped(line.strip()).replace("|", "\\|")
        was_example = is_example
    return out.strip()


def escaped(text: str) -> str:
    parts = text.split("`")
    return "`".join(part.replace("<", "&lt;") if place % 2 == 0 else part for place, part in enumerate(parts))
