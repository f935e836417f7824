"""Check a pickled checkpoint before it is read, from the sizes that it declares.

`torch.load(weights_only=True)` runs no foreign code, but it allocates whatever a file asks for: a
few bytes can demand a `bytearray` of gigabytes, a tensor larger than its storage, or a compressed
zip member that expands a thousandfold. `check_pickle` interprets the pickle symbolically, without
building any object, and accepts only what a state dict consists of.
"""

import mmap
import pickletools
import zipfile
from collections.abc import Callable
from dataclasses import dataclass
from io import BytesIO
from pathlib import Path
from typing import Any, NamedTuple

MAX_PICKLE_BYTES = 2**24  # without tensors, which lie outside the pickle
MAX_OPCODES = 10**6  # a state dict of 2,000 tensors has 50,000
MAX_DIMENSIONS = 16
LEGACY_MAGIC = 0x1950A86A20F9469CFC6C  # first pickle of files of torch before 1.6
LEGACY_PICKLES = 5  # magic number, protocol, system, object, names of storages

ITEM_BYTES = {
    **{f"torch.{name}Storage": 8 for name in ("Double", "Long", "ComplexFloat")},
    **{f"torch.{name}Storage": 4 for name in ("Float", "Int")},
    **{f"torch.{name}Storage": 2 for name in ("Half", "BFloat16", "Short")},
    **{f"torch.{name}Storage": 1 for name in ("Byte", "Char", "Bool")},
    "torch.ComplexDoubleStorage": 16,
    "torch.storage.UntypedStorage": 1,
}
CONTAINERS = ("collections.OrderedDict", "collections.Counter", "torch.Size", "builtins.set")
PARAMETER = "torch.nn.parameter.Parameter"
WRAPPERS = (
    PARAMETER,
    "torch._utils._rebuild_parameter",
    "torch._utils._rebuild_parameter_with_state",
)
TENSORS = (
    "torch._utils._rebuild_tensor",
    "torch._utils._rebuild_tensor_v2",
    "torch._utils._rebuild_tensor_v3",
)
DTYPES = (
    *("float64", "float32", "float16", "bfloat16", "float8_e4m3fn", "float8_e5m2"),
    *("int64", "int32", "int16", "int8", "uint8", "uint16", "uint32", "uint64", "bool"),
    *("complex64", "complex128"),
)
GLOBALS = {
    *ITEM_BYTES,
    *CONTAINERS,
    *WRAPPERS,
    *TENSORS,
    *(f"torch.{name}" for name in DTYPES),
    "torch.device",
    "_codecs.encode",
}
PYTHON_2 = {"__builtin__": "builtins"}
CONSTANTS = {"NONE": None, "NEWTRUE": True, "NEWFALSE": False, "EMPTY_TUPLE": ()}
VALUES = ("BININT", "BININT1", "BININT2", "LONG1", "BINFLOAT", "BINUNICODE", "SHORT_BINSTRING")


class PickleError(ValueError):
    """The pickle is not a state dict, or declares sizes that the file does not have."""


class _Global(NamedTuple):
    name: str


class _Storage(NamedTuple):
    nbytes: int
    item_bytes: int


class _Tensor(NamedTuple):
    shape: tuple[int, ...]


@dataclass(eq=False)
class _Container:
    length: int = 0


def check_pickle(path: Path) -> None:
    """Check the pickle of a `.pth`, `.pt` or `.bin` file.

    Raises:
        PickleError, ValueError, OSError, zipfile.BadZipFile: the file must not be read.
    """
    if zipfile.is_zipfile(path):
        _check_zip(path)
    else:
        _check_legacy(path)


def _check_zip(path: Path) -> None:
    """Check a zip archive, the format since torch 1.6."""
    size = path.stat().st_size
    with zipfile.ZipFile(path) as archive:
        members = archive.infolist()
        names = {member.filename.lower(): member for member in members}
        if len(names) < len(members):
            raise PickleError("two members of the archive have the same name")
        if any(member.compress_type != zipfile.ZIP_STORED for member in members):
            raise PickleError("the archive is compressed, which torch.save never does")
        if sum(member.file_size for member in members) > size:
            raise PickleError("the members of the archive are larger than the file")
        pickles = [member for member in members if member.filename.endswith("/data.pkl")]
        if len(pickles) != 1 or pickles[0].file_size > MAX_PICKLE_BYTES:
            raise PickleError("the archive holds no state dict")
        folder = pickles[0].filename.removesuffix("data.pkl")
        data = archive.read(pickles[0])

    def stored_bytes(key: str, _: int) -> int:
        member = names.get(f"{folder}data/{key}".lower())
        return member.file_size if member else 0

    _Interpreter(stored_bytes).run(BytesIO(data))


def _check_legacy(path: Path) -> None:
    """Check a sequence of pickles with the storages behind it, the format before torch 1.6."""
    size = path.stat().st_size
    declared: dict[str, int] = {}
    left = size

    def stored_bytes(key: str, nbytes: int) -> int:
        nonlocal left
        if key not in declared:
            declared[key] = nbytes
            left -= nbytes
        return declared[key] if left >= 0 else 0

    interpreter = _Interpreter(stored_bytes)
    with path.open("rb") as file, mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as data:
        content = BytesIO(data[:MAX_PICKLE_BYTES])
    for number in range(LEGACY_PICKLES):
        result = interpreter.run(content)
        if number == 0 and result != LEGACY_MAGIC:
            raise PickleError("it was not written by torch.save")


class _Interpreter:
    """Executes the opcodes of a state dict on symbols: containers and tensors have only sizes."""

    def __init__(self, stored_bytes: Callable[[str, int], int]) -> None:
        """Create an interpreter.

        Args:
            stored_bytes: maps the name and declared size of a storage to the bytes in the file.
        """
        self._stored_bytes = stored_bytes
        self._copied = self._opcodes = 0

    def run(self, file: BytesIO) -> Any:
        """Execute one pickle and return the symbol of its result."""
        self._stack: list[Any] = []
        self._marks: list[int] = []
        self._memo: dict[int, Any] = {}
        try:
            for opcode, argument, _ in pickletools.genops(file):
                self._opcodes += 1
                if self._opcodes > MAX_OPCODES:
                    raise PickleError(f"it consists of more than {MAX_OPCODES:,} operations")
                self._step(opcode.name, argument)
            return self._stack.pop()
        except (IndexError, KeyError) as error:
            raise PickleError("the pickle is damaged") from error

    def _step(self, name: str, argument: Any) -> None:
        stack = self._stack
        if name in VALUES:
            stack.append(argument)
        elif name in CONSTANTS:
            stack.append(CONSTANTS[name])
        elif name in ("BINGET", "LONG_BINGET"):
            stack.append(self._memo[argument])
        elif name in ("BINPUT", "LONG_BINPUT"):
            self._memo[argument] = stack[-1]
        elif name == "MARK":
            self._marks.append(len(stack))
        elif name in ("TUPLE1", "TUPLE2", "TUPLE3"):
            stack[-int(name[-1]) :] = [tuple(stack[-int(name[-1]) :])]
        elif name == "TUPLE":
            stack.append(tuple(self._pop_mark()))
        elif name in ("EMPTY_DICT", "EMPTY_LIST", "EMPTY_SET"):
            stack.append(_Container())
        elif name in ("SETITEM", "SETITEMS", "APPEND", "APPENDS"):
            self._extend(name)
        elif name == "GLOBAL":
            stack.append(_global(argument))
        elif name in ("REDUCE", "NEWOBJ"):
            arguments, function = stack.pop(), stack.pop()
            stack.append(self._call(function, arguments))
        elif name == "BUILD":
            self._build(stack.pop(), stack[-1])
        elif name == "BINPERSID":
            stack.append(self._storage(stack.pop()))
        elif name not in ("PROTO", "STOP"):
            raise PickleError(f"unsupported operation {name}")

    def _pop_mark(self) -> list[Any]:
        start = self._marks.pop()
        items = self._stack[start:]
        del self._stack[start:]
        return items

    def _extend(self, name: str) -> None:
        """Add items to a list or dict; keys are text or numbers, never nested tuples."""
        if name.endswith("S"):
            items = self._pop_mark()
        else:
            items = [self._stack.pop() for _ in range(2 if name == "SETITEM" else 1)][::-1]
        container = self._stack[-1]
        if not isinstance(container, _Container):
            raise PickleError("items are added to something that is not a list or dict")
        if name.startswith("SET") and not all(isinstance(k, str | int | float) for k in items[::2]):
            raise PickleError("a name is neither text nor a number")
        container.length += len(items)

    def _call(self, function: Any, arguments: Any) -> Any:
        if not isinstance(function, _Global) or not isinstance(arguments, tuple):
            raise PickleError("the pickle is damaged")
        name = function.name
        if name in TENSORS and len(arguments) >= 4:
            return _tensor(*arguments[:4])
        if name in WRAPPERS and arguments and isinstance(arguments[0], _Tensor):
            return arguments[0]
        if name == PARAMETER and not arguments:  # `_build` fills it
            return _Tensor(())
        if name in CONTAINERS:
            return self._copy(*arguments[:1] or ((),), into=_Container())
        if name == "_codecs.encode" and arguments and isinstance(arguments[0], str):
            self._spend(len(arguments[0]))
            return ""
        if name == "torch.device":
            return None
        raise PickleError(f"unsupported operation {name}")

    def _build(self, state: Any, instance: Any) -> None:
        """Set the state of a container, or of a parameter in files of torch before 0.4."""
        if not isinstance(instance, _Tensor):
            self._copy(state, into=instance)
        elif not isinstance(state, tuple) or len(state) not in (3, 4, 5):
            raise PickleError("the pickle is damaged")
        elif len(state) == 4:
            _tensor(*state)
        elif not isinstance(state[0], bool if len(state) == 3 else _Tensor):
            raise PickleError("the pickle is damaged")

    def _copy(self, source: Any, *, into: Any) -> _Container:
        if not isinstance(into, _Container) or not isinstance(source, (_Container, tuple)):
            raise PickleError("the pickle is damaged")
        length = source.length if isinstance(source, _Container) else len(source)
        self._spend(length)
        into.length += length
        return into

    def _spend(self, count: int) -> None:
        """Count copies: an object that is copied again and again fills memory with few bytes."""
        self._copied += count
        if self._copied > MAX_OPCODES:
            raise PickleError("it copies too much")

    def _storage(self, identifier: Any) -> _Storage:
        """Resolve ("storage", type, key, device, count), with a view behind it in old files."""
        if not isinstance(identifier, tuple) or len(identifier) not in (5, 6):
            raise PickleError("the pickle is damaged")
        kind, type_, key, _, count, *view = identifier
        if kind != "storage" or not isinstance(type_, _Global) or type_.name not in ITEM_BYTES:
            raise PickleError("a tensor has an unsupported type")
        if not isinstance(key, str) or not isinstance(count, int) or count < 0:
            raise PickleError("the pickle is damaged")
        if view not in ([], [None]):
            raise PickleError("views of storages are not supported; save the file again")
        item_bytes = ITEM_BYTES[type_.name]
        if count * item_bytes > self._stored_bytes(key, count * item_bytes):
            raise PickleError("a tensor is larger than the file")
        return _Storage(count * item_bytes, item_bytes)


def _global(argument: str) -> _Global:
    module, _, name = argument.partition(" ")
    full_name = f"{PYTHON_2.get(module, module)}.{name}"
    if full_name not in GLOBALS:
        raise PickleError(f"unsupported operation {full_name}")
    return _Global(full_name)


def _tensor(storage: Any, offset: Any, shape: Any, strides: Any) -> _Tensor:
    """Check that a tensor lies within its storage."""
    if not (
        isinstance(storage, _Storage)
        and isinstance(shape, tuple)
        and isinstance(strides, tuple)
        and len(shape) == len(strides) <= MAX_DIMENSIONS
        and all(isinstance(n, int) and n >= 0 for n in (offset, *shape, *strides))
    ):
        raise PickleError("the shape of a tensor is malformed")
    last = offset + sum((n - 1) * step for n, step in zip(shape, strides, strict=True))
    if 0 not in shape and (last + 1) * storage.item_bytes > storage.nbytes:
        raise PickleError("a tensor is larger than its storage")
    return _Tensor(shape)
