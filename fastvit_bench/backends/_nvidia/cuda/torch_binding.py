"""PyTorch's own calls as a `Cuda`, for networks that PyTorch runs: its allocator must take part in a capture.

Not among `BINDINGS`: another toolkit's buffers have no use for PyTorch's allocator. It takes the imported module.
"""

from typing import Any, ClassVar

from fastvit_bench.backends._nvidia.cuda.binding import (
    OUT_OF_MEMORY,
    Event,
    Graph,
    Memory,
    Pinned,
    Stream,
    failure,
    mib,
    same_size,
)


class TorchCuda:
    """The calls of ``torch.cuda``, which enqueue all work in the thread's current stream.

    So a stream becomes current when it is created, and again when anything but a graph is put into it: another network
    of the same process may have made its own current meanwhile. A run begins with an event, so its stream is current
    when its graph is replayed.
    """

    name = "torch"
    graphs = True
    place: Any  # the opened GPU, as tensors name it
    current: ClassVar[Stream | None] = None  # of this process, whichever object created it

    def __init__(self, torch: Any) -> None:
        self._torch = torch
        self._before: list[Any] = []  # streams that were current, the latest last
        self._capturing: Any = None

    def open(self, index: int, spin: bool) -> None:
        """Make GPU `index` current; `spin` is ignored, because the events decide how to wait."""
        with self.doing(f"opening GPU {index}"):
            self._torch.cuda.init()
            self.place = self._torch.device("cuda", index)
            self._torch.cuda.set_device(self.place)

    def close(self) -> None:
        """Free the memory PyTorch's allocator caches; the context stays, as other code may use it."""
        with self.doing("giving memory back"):
            self._torch.cuda.empty_cache()

    def allocate(self, size: int) -> Memory:
        with self.doing(f"allocating {mib(size)} of GPU memory"):
            return self.memory_of(self._torch.empty(size, dtype=self._torch.uint8, device=self.place))

    def free(self, memory: Memory) -> None:
        memory.native = None

    def pin(self, size: int) -> Pinned:
        with self.doing(f"pinning {mib(size)} of the host's memory"):
            native = self._torch.empty(size, dtype=self._torch.uint8, pin_memory=True)
        return Pinned(view=memoryview(native.numpy()), native=native)

    def unpin(self, pinned: Pinned) -> None:
        pinned.native = None

    def upload(self, memory: Memory, pinned: Pinned, stream: Stream) -> None:
        same_size(memory, pinned)
        with self.doing("copying"):
            self._enter(stream)
            memory.native.copy_(pinned.native, non_blocking=True)

    def download(self, pinned: Pinned, memory: Memory, stream: Stream) -> None:
        same_size(memory, pinned)
        with self.doing("copying"):
            self._enter(stream)
            pinned.native.copy_(memory.native, non_blocking=True)

    def fill(self, memory: Memory, byte: int, stream: Stream) -> None:
        with self.doing("filling GPU memory"):
            self._enter(stream)
            memory.native.fill_(byte)

    def create_stream(self) -> Stream:
        with self.doing("creating a stream"):
            native = self._torch.cuda.Stream(device=self.place)
            self._before.append(self._torch.cuda.current_stream())
            stream = Stream(handle=native.cuda_stream, native=native)
            self._enter(stream)
        return stream

    def synchronise_stream(self, stream: Stream) -> None:
        with self.doing("running the network"):
            stream.native.synchronize()

    def destroy_stream(self, stream: Stream) -> None:
        stream.native = None
        TorchCuda.current = None
        with self.doing("leaving a stream"):
            self._torch.cuda.set_stream(self._before.pop())

    def create_event(self, blocking: bool) -> Event:
        with self.doing("creating an event"):
            return Event(native=self._torch.cuda.Event(enable_timing=True, blocking=blocking))

    def record(self, event: Event, stream: Stream) -> None:
        with self.doing("recording an event"):
            self._enter(stream)
            event.native.record(stream.native)

    def synchronise_event(self, event: Event) -> None:
        with self.doing("running the network"):
            event.native.synchronize()

    def elapsed_ms(self, start: Event, end: Event) -> float:
        with self.doing("reading the time"):
            return float(start.native.elapsed_time(end.native))

    def destroy_event(self, event: Event) -> None:
        event.native = None

    def begin_capture(self, stream: Stream) -> None:
        """Start a capture with memory of its own; memory that the allocator has cached is freed before."""
        with self.doing("beginning the capture"):
            self._enter(stream)
            self._torch.cuda.synchronize()
            self._torch.cuda.empty_cache()
            graph = self._torch.cuda.CUDAGraph()
            graph.capture_begin(capture_error_mode="thread_local")  # what other threads do does not end the capture
            self._capturing = graph

    def end_capture(self, stream: Stream) -> Graph:
        graph, self._capturing = self._capturing, None
        with self.doing("ending the capture"):
            graph.capture_end()
        return Graph(native=graph)

    def launch(self, graph: Graph, stream: Stream) -> None:
        with self.doing("launching the graph"):
            graph.native.replay()

    def destroy_graph(self, graph: Graph) -> None:
        native, graph.native = graph.native, None
        with self.doing("destroying a graph"):
            native.reset()

    def _enter(self, stream: Stream) -> None:
        """Make a stream current; compared by identity alone, because this runs between two events."""
        if TorchCuda.current is not stream:
            self._torch.cuda.set_stream(stream.native)
            TorchCuda.current = stream

    def memory_of(self, tensor: Any) -> Memory:
        """Return the memory of a tensor without gaps, in any order of its elements; it keeps the tensor alive."""
        flat = tensor.as_strided((tensor.numel(),), (1,)).view(self._torch.uint8)
        return Memory(pointer=tensor.data_ptr(), size=flat.numel(), native=flat)

    def doing(self, doing: str) -> "Translated":
        """Return a ``with`` block that raises PyTorch's exceptions as `UnavailableError`; also for enqueued work."""
        return Translated(self._torch, doing)


class Translated:
    """A ``with`` block that raises PyTorch's exceptions as `UnavailableError`.

    It is a class, because a generator would cost more between two events.
    """

    __slots__ = ("_doing", "_torch")

    def __init__(self, torch: Any, doing: str) -> None:
        self._torch, self._doing = torch, doing

    def __enter__(self) -> None:
        return

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: object) -> None:
        # a build without CUDA raises AssertionError; all other errors are RuntimeErrors
        if not isinstance(error, RuntimeError | AssertionError):
            return
        code = getattr(error, "error_code", None)
        if isinstance(error, self._torch.OutOfMemoryError):
            code = OUT_OF_MEMORY
        detail = (str(error).strip().splitlines() or [type(error).__name__])[0]  # advice about debugging follows
        raise failure(self._doing, code, detail.rstrip(".")) from error
