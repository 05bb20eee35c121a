"""Work on a GPU, timed by two CUDA events on its stream: durations are the GPU's, and no host clock is read.

start event ─► [copies to the GPU] ─► work, or its graph ─► [copies back] ─► end event;  then wait for the end event

Starting the work counts as far as the GPU waits for it: a graph starts all of it in one call. Without a graph, a small
network can be as slow as the host is at starting it.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Literal

from fastvit_bench.backends._nvidia.cuda.binding import Context, Memory, Pinned
from fastvit_bench.errors import UnavailableError
from fastvit_bench.records import Window

CLOCK = "CUDA events"


@dataclass(frozen=True)
class Mode:
    """The way runs are started and waited for; figures of different modes are not comparable."""

    graph: bool | None = None  # replay a CUDA graph: yes, no, or where the binding can
    transfers: bool = False  # whether each run copies its input to the GPU and its outputs back
    sync: Literal["spin", "block"] = "spin"  # what the host does until the end event


class EventTimer:
    """A timer of the work that `enqueue` puts into a stream, given its handle; its context closes it.

    `enqueue` must put the same work into the stream every time, at the same addresses. It is called once before the
    graph is captured: at the first call toolkits allocate and load kernels, which no graph can contain. `upload` and
    `download` enqueue the copies; they are called where the mode includes transfers. Raises `UnavailableError` where
    the mode asks for a graph and the binding has none.
    """

    clock = CLOCK

    def __init__(
        self,
        context: Context,
        enqueue: Callable[[int], None],
        mode: Mode | None = None,
        *,
        upload: Callable[[], None] | None = None,
        download: Callable[[], None] | None = None,
    ) -> None:
        self.mode = mode or Mode()
        self._context, self._cuda, self._enqueue = context, context.cuda, enqueue
        if self.mode.graph and not self._cuda.graphs:
            raise UnavailableError(
                f"The CUDA binding {self._cuda.name} knows no CUDA graphs; "
                f"switch the graph off, or choose the binding cuda-python."
            )
        self.graph = self._cuda.graphs if self.mode.graph is None else self.mode.graph  # whether runs replay one
        self._upload = upload if self.mode.transfers else None
        self._download = download if self.mode.transfers else None
        self.stream = context.stream()
        blocking = self.mode.sync == "block"
        self._start, self._end = context.event(blocking=blocking), context.event(blocking=blocking)
        self._work: Callable[[], None] | None = None

    @property
    def window(self) -> Window:
        """The part of a run that lies between the two events."""
        return Window.END_TO_END if self.mode.transfers else Window.COMPUTE

    @property
    def settings(self) -> dict[str, str]:
        """The resolved mode, for records: ``graph``, ``transfers``, ``sync`` and ``binding``."""
        return {
            "graph": "on" if self.graph else "off",
            "transfers": "included" if self.mode.transfers else "excluded",
            "sync": self.mode.sync,
            "binding": self._cuda.name,
        }

    def run(self) -> None:
        """Enqueue one run between its two events; the first call prepares the work before that."""
        work = self._work or self._prepared()
        self._cuda.record(self._start, self.stream)
        if self._upload:
            self._upload()
        work()
        if self._download:
            self._download()
        self._cuda.record(self._end, self.stream)

    def wait(self) -> None:
        """Block until the last run is finished."""
        self._cuda.synchronise_event(self._end)

    def elapsed_ns(self) -> int:
        """Return the time between the events of the last run, which is finished, in nanoseconds, good to about 500.

        Raises `UnavailableError` for a run that took no time.
        """
        elapsed = round(self._cuda.elapsed_ms(self._start, self._end) * 1e6)
        if elapsed <= 0:
            raise UnavailableError(
                f"CUDA's events say that a run took {elapsed} ns, so nothing ran; check what the engine computes."
            )
        return elapsed

    def _prepared(self) -> Callable[[], None]:
        """Run once, capture the graph if the mode has one, and return the call that starts a run."""
        enqueue, launch, stream = self._enqueue, self._cuda.launch, self.stream
        self._cuda.record(self._start, stream)  # PyTorch's calls make the stream current by it
        enqueue(stream.handle)
        self._cuda.synchronise_stream(stream)
        if self.graph:
            graph = self._context.capture(enqueue, stream)
            self._work = lambda: launch(graph, stream)
        else:
            self._work = lambda: enqueue(stream.handle)
        return self._work


class EventSession(EventTimer):
    """An `EventTimer` with buffers for named inputs and outputs, for a backend's session to delegate to.

    `inputs` and `outputs` are sizes in bytes by name; `pointers` maps names to addresses on the GPU, which the engine
    needs before the first run. Outputs start as bytes of 255, which are NaN in every floating-point type, so that an
    output that nothing writes cannot pass for a result.
    """

    def __init__(
        self,
        context: Context,
        enqueue: Callable[[int], None],
        inputs: Mapping[str, int],
        outputs: Mapping[str, int],
        mode: Mode | None = None,
    ) -> None:
        super().__init__(context, enqueue, mode, upload=self._send, download=self._bring)
        self._inputs = {name: (context.memory(size), context.pinned(size)) for name, size in inputs.items()}
        self._outputs = {name: (context.memory(size), context.pinned(size)) for name, size in outputs.items()}
        buffers: dict[str, tuple[Memory, Pinned]] = {**self._inputs, **self._outputs}
        self.pointers = {name: memory.pointer for name, (memory, _) in buffers.items()}
        for memory, _ in self._outputs.values():
            self._cuda.fill(memory, 255, self.stream)
        self._cuda.synchronise_stream(self.stream)

    def set_input(self, values: Mapping[str, Any]) -> None:
        """Copy every input to the GPU, by name, from an object with contiguous bytes such as an array of its type.

        Raises `ValueError` for missing or unknown names and for a different number of bytes.
        """
        if values.keys() != self._inputs.keys():
            raise ValueError(f"inputs are {', '.join(self._inputs)}, not {', '.join(values)}")
        for name, (_, pinned) in self._inputs.items():
            content = memoryview(values[name]).cast("B")
            if content.nbytes != pinned.size:
                raise ValueError(f"input {name} has {pinned.size} bytes, not {content.nbytes}")
            pinned.view[:] = content
        self._send()
        self._cuda.synchronise_stream(self.stream)

    def get_output(self) -> dict[str, bytes]:
        """Return the contents of the outputs by name, in copies that the next run does not change."""
        self._bring()
        self._cuda.synchronise_stream(self.stream)
        return {name: bytes(pinned.view) for name, (_, pinned) in self._outputs.items()}

    def _send(self) -> None:
        """Enqueue the copies of all inputs to the GPU."""
        for memory, pinned in self._inputs.values():
            self._cuda.upload(memory, pinned, self.stream)

    def _bring(self) -> None:
        """Enqueue the copies of all outputs to the host."""
        for memory, pinned in self._outputs.values():
            self._cuda.download(pinned, memory, self.stream)
